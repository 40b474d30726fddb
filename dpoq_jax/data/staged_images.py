"""Decodes image files once and keeps the results in a file, so that a stopped run can go on.

The file is an SQLite database. It has a row for each image file: its size and time of change, the
digest of its pixels, and the bytes that a data set is to have of it; or the reason why it cannot be
read.
"""

from collections.abc import Iterator, Sequence
import concurrent.futures
import contextlib
import functools
import hashlib
import io
import os
import pathlib
import sqlite3
from typing import TYPE_CHECKING, NamedTuple

from dpoq_jax.data import decode
from dpoq_jax.runtime import files, terminal

if TYPE_CHECKING:
  from PIL import Image

# Files decoded between two writes: what a kill loses.
_BATCH = 64
# Of JPEGs that are turned, converted or resized: nothing of it is seen.
_JPEG_QUALITY = 95

_TABLE = """
CREATE TABLE IF NOT EXISTS images (
  path BLOB, bytes INTEGER, changed INTEGER, shorter_side INTEGER,
  digest BLOB, error TEXT, encoded BLOB, PRIMARY KEY (path, shorter_side)
)"""
_KNOWN = """
SELECT digest, error FROM images WHERE path = ? AND bytes = ? AND changed = ? AND shorter_side = ?
"""


class Staged(NamedTuple):
  """Holds what is known of an image file once it was decoded.

  Attributes:
    digest: digest of its size and pixels, upright and in RGB; None if they cannot be read.
    error: reason why they cannot be read; None if they can.
  """

  digest: bytes | None
  error: str | None


class _Identity(NamedTuple):
  """Holds what tells whether a file, converted in the same way, is still what it was."""

  path: bytes
  size: int
  changed: int
  shorter_side: int


class _Row(NamedTuple):
  """Holds a row of the table."""

  identity: _Identity
  staged: 'Staged'
  encoded: bytes | None


class Stage:
  """Holds the images that were decoded so far.

  Attributes:
    shorter_side: shorter side that images are shrunk to, pixels; 0 leaves them as large as they
      are.
  """

  def __init__(self, database: sqlite3.Connection, shorter_side: int) -> None:
    self._database, self.shorter_side = database, shorter_side

  def decode(self, paths: Sequence[pathlib.Path]) -> Iterator[Staged]:
    """Decodes image files in parallel; yields what is known of each, in their order.

    Those that were decoded before, and have not changed since, are not read again.
    """
    convert = functools.partial(_row, shorter_side=self.shorter_side)
    with concurrent.futures.ThreadPoolExecutor() as pool:
      for start in range(0, len(paths), _BATCH):
        batch = paths[start : start + _BATCH]
        found = {path: self._known(path) for path in batch}
        fresh = [path for path, staged in found.items() if staged is None]
        rows = list(pool.map(convert, fresh))
        values = [(*row.identity, *row.staged, row.encoded) for row in rows]
        with self._database:
          self._database.executemany('INSERT OR REPLACE INTO images VALUES (?,?,?,?,?,?,?)', values)
        known = {path: staged for path, staged in found.items() if staged}
        known |= {path: row.staged for path, row in zip(fresh, rows, strict=True)}
        # A path may have been given twice.
        yield from (known[path] for path in batch)

  def encoded(self, path: pathlib.Path) -> bytes:
    """Returns the bytes that a data set is to have of a file that was decoded."""
    query = 'SELECT encoded FROM images WHERE path = ? AND shorter_side = ?'
    found = self._database.execute(query, (_key(path), self.shorter_side)).fetchone()
    return path.read_bytes() if found[0] is None else found[0]

  def _known(self, path: pathlib.Path) -> Staged | None:
    """Returns what an earlier run found in a file, if it is still the same."""
    found = self._database.execute(_KNOWN, _identified(path, self.shorter_side)).fetchone()
    return Staged(*found) if found else None


@contextlib.contextmanager
def opened(path: pathlib.Path, shorter_side: int | None = None) -> Iterator[Stage]:
  """Opens the database, which is made if need be; it stays when the block ends.

  Args:
    path: path of the database.
    shorter_side: shorter side that larger images are shrunk to, pixels; None shrinks none.

  Raises:
    OSError: if it cannot be written, or is damaged.
  """
  try:
    # Read by the thread that writes records, too.
    with contextlib.closing(sqlite3.connect(path, check_same_thread=False)) as database:
      database.execute(_TABLE)
      yield Stage(database, shorter_side or 0)
  except sqlite3.OperationalError as error:
    raise OSError(f'{path} cannot be written: {error}.') from None
  except sqlite3.DatabaseError as error:
    raise OSError(f'{path} is damaged ({error}): delete it.') from None


def _identified(path: pathlib.Path, shorter_side: int) -> _Identity:
  """Returns what tells whether a file is the one that was decoded; one that is gone has no size."""
  try:
    found = path.stat()
  except OSError:
    return _Identity(_key(path), -1, 0, shorter_side)
  return _Identity(_key(path), found.st_size, found.st_mtime_ns, shorter_side)


def _key(path: pathlib.Path) -> bytes:
  """Returns a path as bytes, since it need not be UTF-8."""
  return os.fsencode(path.absolute())


def _row(path: pathlib.Path, shorter_side: int) -> _Row:
  """Decodes a file; returns its row."""
  identity = _identified(path, shorter_side)
  try:
    digest, encoded = _converted(path, shorter_side)
  except MemoryError:
    raise
  # A broken file may make a decoder raise any exception.
  except Exception as error:
    reason = terminal.one_line(error) or type(error).__name__
    return _Row(identity, Staged(None, reason), None)
  return _Row(identity, Staged(digest, None), encoded)


def _converted(path: pathlib.Path, shorter_side: int) -> tuple[bytes, bytes | None]:
  """Decodes a file; returns the digest of its pixels, and the bytes to be stored.

  They are None if the file is to be stored as it is: a JPEG that is upright and in RGB already.
  """
  with files.open_regular(path) as file, decode.opened(file) as image:
    pixels = decode.decoded(image, channels=3)
    digest = hashlib.blake2b(repr(pixels.size).encode(), digest_size=16)
    digest.update(pixels.tobytes())
    is_jpeg = image.format in ('JPEG', 'MPO')
    shrunk = _shrunk(pixels, shorter_side)
    # The decoder returns the opened image itself where it changes nothing.
    if image.format == 'JPEG' and shrunk is image:
      return digest.digest(), None
  encoded = io.BytesIO()
  if is_jpeg:
    shrunk.save(encoded, 'jpeg', quality=_JPEG_QUALITY, subsampling=0)
  else:
    shrunk.save(encoded, 'png')
  return digest.digest(), encoded.getvalue()


def _shrunk(image: 'Image.Image', shorter_side: int) -> 'Image.Image':
  """Resizes an image whose shorter side is longer than that, as `crop.central_crop` would."""
  from PIL import Image

  short = min(image.size)
  if not shorter_side or short <= shorter_side:
    return image
  width, height = (shorter_side * side // short for side in image.size)
  return image.resize((width, height), Image.Resampling.BILINEAR)
