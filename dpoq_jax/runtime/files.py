"""Writes files whole, and keeps folders for one process."""

from collections.abc import Iterator
import contextlib
import fcntl
import os
import pathlib
from typing import TextIO


@contextlib.contextmanager
def lock(folder: pathlib.Path, refusal: str) -> Iterator[None]:
  """Makes a folder if need be and keeps other processes out of it.

  Raises:
    BlockingIOError: with the message `refusal`, if another process has it.
    OSError: if it cannot be made.
  """
  folder.mkdir(parents=True, exist_ok=True)
  with (folder / '.lock').open('w') as file:
    try:
      # The system lets go of the lock when the process ends, however it ends.
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise BlockingIOError(refusal) from None
    yield


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
  """Writes a file whole: a killed process leaves the old one or the new one, never a part."""
  if isinstance(content, str):
    content = content.encode('utf-8', errors='surrogateescape')
  with _renamed_when_whole(path) as partial:
    partial.write_bytes(content)


@contextlib.contextmanager
def whole_file(path: pathlib.Path) -> Iterator[TextIO]:
  """Opens a text file (UTF-8) that gets its name once it is whole, and is gone if that fails.

  File names that are not UTF-8 can be written to it, byte for byte.

  Raises:
    OSError: if it cannot be written there.
  """
  with (
    _renamed_when_whole(path) as partial,
    partial.open('w', encoding='utf-8', errors='surrogateescape', newline='') as file,
  ):
    yield file


@contextlib.contextmanager
def _renamed_when_whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields the path of a file to write, which becomes `path` unless an exception ends the block."""
  if path.is_dir():
    raise IsADirectoryError(f'{path} is a directory: give a file.')
  if path.exists() and not path.is_file():
    # The new file would take the place of a device, for all programs.
    raise FileExistsError(f'{path} is no regular file: give another.')
  # A link stays one: what it points to is written.
  target = path.resolve()
  partial = target.with_name(f'.{target.name}.{os.getpid()}.partial')
  try:
    yield partial
    partial.replace(target)
  except OSError as error:
    if error.errno is None or error.filename:
      raise
    # A disk that is full says so without saying where.
    raise OSError(error.errno, error.strerror, str(path)) from None
  finally:
    partial.unlink(missing_ok=True)
