"""Opens files without waiting, writes them whole, and keeps folders for one process."""

from collections.abc import Iterator
import contextlib
import fcntl
import os
import pathlib
import secrets
import stat
from typing import BinaryIO, TextIO

_KINDS = {
  stat.S_IFDIR: 'a folder',
  stat.S_IFIFO: 'a FIFO',
  stat.S_IFSOCK: 'a socket',
  stat.S_IFCHR: 'a device',
  stat.S_IFBLK: 'a device',
}


def check_folder(path: pathlib.Path) -> None:
  """Checks that there is a folder to read from.

  Raises:
    FileNotFoundError: if there is nothing.
    NotADirectoryError: if it is a file.
  """
  if not path.exists():
    raise FileNotFoundError(f'{path}: there is no such folder.')
  if not path.is_dir():
    raise NotADirectoryError(f'{path} is a file; give a folder.')


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


def open_regular(path: pathlib.Path) -> BinaryIO:
  """Opens a regular file to read; what may never answer, or never end, is refused at once.

  Raises:
    ValueError: if it is a folder, a FIFO, a socket or a device.
    OSError: if it cannot be opened.
  """
  # Asked first, since opening a device may do something.
  _check_regular(path, path.stat())
  # A FIFO that took the name since then is opened without waiting for its writer.
  file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 'rb')
  try:
    _check_regular(path, os.fstat(file.fileno()))
  except ValueError:
    file.close()
    raise
  return file


def read_regular(path: pathlib.Path) -> bytes:
  """Returns the content of a regular file; refuses what `open_regular` does."""
  with open_regular(path) as file:
    return file.read()


def _check_regular(path: pathlib.Path, found: os.stat_result) -> None:
  if not stat.S_ISREG(found.st_mode):
    kind = _KINDS.get(stat.S_IFMT(found.st_mode), 'something else')
    raise ValueError(f'{path} is {kind}, not a regular file.')


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
def whole_binary_file(path: pathlib.Path) -> Iterator[BinaryIO]:
  """Opens a file of bytes as `whole_file` opens one of text; raises as it does."""
  with _renamed_when_whole(path) as partial, partial.open('wb') as file:
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
  # Not by the number of this process, which another one has in a container of its own.
  partial = target.with_name(f'.{target.name}.{secrets.token_hex(4)}.partial')
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
