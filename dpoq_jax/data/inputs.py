"""Images to predict on: a folder of image files, or an array in a `.npy` file."""

from collections.abc import Iterator, Sequence
import concurrent.futures
import dataclasses
import pathlib
import warnings

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Input:
  """One image, or why there is none.

  Attributes:
    name: path relative to the folder, or position in the array.
    image: uint8 [height, width, channels]; None if it could not be read.
    error: why not; None if it could.
  """

  name: str
  image: np.ndarray | None
  error: str | None = None


def count(path: pathlib.Path) -> int:
  """Number of images that `read` will give.

  Raises:
    FileNotFoundError, ValueError: as `read`.
  """
  return len(_load_array(path)) if path.suffix == '.npy' else len(_files(path))


def read(
  path: pathlib.Path, shape: Sequence[int], *, batch_size: int
) -> Iterator[tuple[Input, ...]]:
  """Reads images in batches, in the order of their names or of the array.

  Files may be of any kind and size that pillow reads; they are turned upright as their EXIF says,
  converted to grey or RGB and resized (bilinear, with antialiasing) where they differ from `shape`.
  Files of other kinds in the folder are passed over.

  Args:
    path: a folder, searched with all folders in it; one image; or `.npy`, uint8 [examples, height,
      width, channels] of exactly that shape (the axis of one channel, or of one example, may be
      left out).
    shape: (height, width, channels), one channel or three.
    batch_size: inputs of a batch, read in parallel.

  Raises:
    FileNotFoundError: if there is nothing there, or no image in the folder.
    ValueError: if an array is not that.
  """
  if path.suffix == '.npy':
    return _read_array(path, _load_array(path), tuple(shape), batch_size)
  return _read_files(path, _files(path), tuple(shape), batch_size)


def _read_array(
  path: pathlib.Path, array: np.ndarray, shape: tuple[int, ...], batch_size: int
) -> Iterator[tuple[Input, ...]]:
  if shape[-1] == 1 and array.shape[1:] == shape[:-1]:
    array = array[..., None]
  if array.shape == shape:
    array = array[None]
  if array.dtype != np.uint8 or array.shape[1:] != shape or not len(array):
    raise ValueError(
      f'{path} holds {array.dtype}{list(array.shape)}: this network takes uint8 '
      f'[examples, {", ".join(map(str, shape))}].'
    )
  return (
    tuple(Input(str(i), array[i]) for i in range(start, min(start + batch_size, len(array))))
    for start in range(0, len(array), batch_size)
  )


def _load_array(path: pathlib.Path) -> np.ndarray:
  if not path.is_file():
    raise FileNotFoundError(f'there is no {path}.')
  try:
    return np.load(path, mmap_mode='r', allow_pickle=False)
  except (ValueError, EOFError) as error:
    raise ValueError(f'{path} is not an array of images: {error}') from None


def _files(path: pathlib.Path) -> list[pathlib.Path]:
  from PIL import Image

  known = Image.registered_extensions()
  if path.is_file():
    return [path]
  if not path.is_dir():
    raise FileNotFoundError(
      f'there is no {path}: give a folder of images, an image or a .npy file.'
    )
  files = [file for file in path.rglob('*') if file.suffix.lower() in known and file.is_file()]
  if not files:
    raise FileNotFoundError(f'{path} holds no image files.')
  return sorted(files)


def _read_files(
  path: pathlib.Path, files: list[pathlib.Path], shape: tuple[int, ...], batch_size: int
) -> Iterator[tuple[Input, ...]]:
  root = path if path.is_dir() else path.parent
  with concurrent.futures.ThreadPoolExecutor() as pool:
    for start in range(0, len(files), batch_size):
      batch = files[start : start + batch_size]
      yield tuple(pool.map(lambda file: _read_file(file, root, shape), batch))


def _read_file(file: pathlib.Path, root: pathlib.Path, shape: tuple[int, ...]) -> Input:
  from PIL import Image, ImageOps

  name = file.relative_to(root).as_posix()
  height, width, channels = shape
  try:
    # A picture large enough for a warning is not one to decode.
    with warnings.catch_warnings():
      warnings.simplefilter('error', Image.DecompressionBombWarning)
      with Image.open(file) as opened:
        image = ImageOps.exif_transpose(opened).convert('L' if channels == 1 else 'RGB')
    if image.size != (width, height):
      image = image.resize((width, height), Image.Resampling.BILINEAR)
    return Input(name, np.asarray(image).reshape(shape))
  # Decoders raise whatever a broken file makes them raise.
  except Exception as error:
    reason = ' '.join(str(error).split()) or type(error).__name__
    return Input(name, None, reason.replace(str(root) + '/', ''))
