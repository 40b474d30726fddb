"""Reads the images to predict on: an array, or files and folders of them where Pillow is there.

An export has a copy of this file beside its `predict.py`, and of the modules that `dpoq predict`
reads images by, so that both see the same pixels.
"""

from collections.abc import Iterator, Sequence
import pathlib
import sys
from typing import NamedTuple

import numpy as np

if __package__:
  from dpoq_jax.data import decode, image_folder, resize
else:  # In an export, beside this file.
  import decode  # pyright: ignore[reportMissingImports]
  import image_folder  # pyright: ignore[reportMissingImports]
  import resize  # pyright: ignore[reportMissingImports]

# Images that are in memory at the same time.
_AT_ONCE = 1024


class Images(NamedTuple):
  """Holds images to predict on.

  Attributes:
    names: positions in an array, or paths of files.
    pixels: uint8 [images, height, width, channels].
  """

  names: list[str]
  pixels: np.ndarray


def read(
  paths: Sequence[pathlib.Path], shape: Sequence[int], shorter_side: int | None
) -> Iterator[Images]:
  """Reads images, not all at once; a file that is no image is named on stderr and left out.

  Args:
    paths: one `.npy` file, or image files and folders of them.
    shape: (height, width, channels) that files are resized to.
    shorter_side: as `resize.fitted` has it.

  Raises:
    OSError: if something cannot be opened.
    ValueError: for what is not there or holds no image, or if Pillow is not.
  """
  arrays = [path for path in paths if path.suffix.lower() == '.npy']
  if arrays:
    if len(paths) > 1:
      raise ValueError(f'{arrays[0]}: give an array alone, not as one of several paths.')
    pixels = read_array(arrays[0])
    yield Images([str(number) for number in range(len(pixels) if pixels.ndim else 0)], pixels)
    return
  files = [file for path in paths for file in _files(path)]
  # Of one folder the paths in it say enough.
  root = paths[0] if len(paths) == 1 and paths[0].is_dir() else None
  were_read = 0
  for start in range(0, len(files), _AT_ONCE):
    names: list[str] = []
    pixels = []
    for file in files[start : start + _AT_ONCE]:
      name = str(file.relative_to(root) if root else file)
      try:
        pixels.append(_pixels(file, shape, shorter_side))
        names.append(name)
      # A broken file may make a decoder raise any exception.
      except Exception as error:
        print('not read:', printable(f'{name}: {error}'), file=sys.stderr)
    if names:
      were_read += len(names)
      yield Images(names, np.stack(pixels))
  if not were_read:
    raise ValueError(f'none of {len(files)} images could be read.')


def _files(path: pathlib.Path) -> list[pathlib.Path]:
  """Returns the files at a path: itself, or the images of a folder and all folders in it."""
  try:
    import PIL.Image  # noqa: F401
  except ModuleNotFoundError:
    if path.exists():
      raise ValueError('Pillow is not installed, which reads images: pip install pillow.') from None
  if path.is_dir():
    found = image_folder.search(path, decode.suffixes())
    if not found.files:
      raise ValueError(f'{path} holds no image files.')
    return found.files
  if not path.is_file():  # A pipe may have no end.
    raise ValueError(
      f'{path} is not there or no regular file: give images, a folder of them or a .npy file.'
    )
  return [path]


def _pixels(file: pathlib.Path, shape: Sequence[int], shorter_side: int | None) -> np.ndarray:
  """Reads an image file; returns its pixels in the shape that the network takes."""
  if not file.is_file():
    raise ValueError('no regular file.')
  with file.open('rb') as opened_file, decode.opened(opened_file) as opened:
    return resize.fitted(decode.decoded(opened, shape[-1]), shape, shorter_side)


def read_array(path: pathlib.Path) -> np.ndarray:
  """Reads the array of a `.npy` file, of which only what is used has to fit in memory."""
  if not path.is_file():  # A pipe may have no end.
    raise ValueError(f'{path} is not there or no regular file: give a .npy file.')
  with path.open('rb') as file:
    # Headers of later versions may be of 4 GB, which NumPy would take memory for.
    if file.read(8) != b'\x93NUMPY\x01\x00':
      raise ValueError(f'{path} is no .npy file: write one array by numpy.save.')
  try:
    return np.lib.format.open_memmap(path, mode='r')
  # A header is Python, parsed, which may raise anything.
  except Exception as error:
    raise ValueError(f'{path} is no .npy file ({error}).') from None


def printable(text: str) -> str:
  """Returns text, shortened, with what a terminal would obey (escapes, line ends) written out."""
  short = text if len(text) <= 1000 else f'{text[:800]} ... {text[-100:]}'
  return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in short)
