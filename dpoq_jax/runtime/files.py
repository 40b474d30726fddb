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


def write_whole(path: pathlib.Path, text: str) -> None:
  """Writes a file whole: a killed process leaves the old one or the new one, never a part."""
  with whole_file(path) as file:
    file.write(text)


@contextlib.contextmanager
def whole_file(path: pathlib.Path) -> Iterator[TextIO]:
  """Opens a text file (UTF-8) that gets its name once it is whole, and is gone if that fails.

  File names that are not UTF-8 can be written to it, byte for byte.

  Raises:
    OSError: if it cannot be written there.
  """
  if path.is_dir():
    raise IsADirectoryError(f'{path} is a directory: give a file.')
  partial = path.with_name(f'.{path.name}.{os.getpid()}.partial')
  try:
    with partial.open('w', encoding='utf-8', errors='surrogateescape', newline='') as file:
      yield file
    partial.replace(path)
  finally:
    partial.unlink(missing_ok=True)
