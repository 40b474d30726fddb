"""Reads the images to predict on: image files, or an array in a `.npy` file."""

import collections
from collections.abc import Iterator, Mapping, Sequence
import concurrent.futures
import dataclasses
import glob
import os
import pathlib

import numpy as np

from dpoq_jax.data import decode, image_folder, npy, resize
from dpoq_jax.data.order import shard
from dpoq_jax.runtime import files, terminal


@dataclasses.dataclass(frozen=True, eq=False)
class Input:
  """Holds one image to predict on, or the reason why it could not be read.

  Attributes:
    name: Path relative to the folder, or position in the array.
    image: uint8 [height, width, channels]; None if it could not be read.
    error: reason why it could not be read; None if it could.
  """

  name: str
  image: np.ndarray | None
  error: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Inputs:
  """Holds the images to predict on, not read yet: paths of files, or an array on disk.

  Attributes:
    shape: (height, width, channels) of every image once it is read.
    array: uint8 [examples, height, width, channels]; None if the images are files.
    files: paths of the files, sorted; empty if the images are an array.
    root: folder that the names of files are relative to; None names them as they were given.
    shorter_side: shorter side to which files are resized before their centre is taken, pixels; None
      resizes them to `shape`.
    first: position of the first image in the whole array, if these are a part of it.
    passed_over: number of files in the folder that are no images by their names, by suffix.
  """

  shape: tuple[int, ...]
  array: np.ndarray | None = None
  files: Sequence[pathlib.Path] = ()
  root: pathlib.Path | None = None
  shorter_side: int | None = None
  first: int = 0
  passed_over: Mapping[str, int] = dataclasses.field(default_factory=dict)

  def __len__(self) -> int:
    """Returns the number of images, those that cannot be read included."""
    return len(self.files) if self.array is None else len(self.array)

  def shard(self, index: int, count: int) -> 'Inputs':
    """Returns part `index` of `count` contiguous parts of nearly one size; it may be empty."""
    part = shard(len(self), index, count)
    chosen = slice(part.start, part.stop)
    array = None if self.array is None else self.array[chosen]
    return dataclasses.replace(
      self, array=array, files=self.files[chosen], first=self.first + part.start
    )

  def batches(self, size: int) -> Iterator[tuple[Input, ...]]:
    """Yields the images in their order, `size` at a time, read in parallel."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
      for start in range(0, len(self), size):
        yield tuple(pool.map(self._read, range(start, min(start + size, len(self)))))

  def _read(self, index: int) -> Input:
    if self.array is not None:
      return Input(str(self.first + index), np.array(self.array[index]))
    return self._read_file(self.files[index])

  def _read_file(self, path: pathlib.Path) -> Input:
    name = (path.relative_to(self.root) if self.root else path).as_posix()
    try:
      if path.is_dir():
        # Raises what kept it from being searched.
        with os.scandir(path):
          pass
      with files.open_regular(path) as file, decode.opened(file) as opened:
        image = decode.decoded(opened, self.shape[-1])
        return Input(name, resize.fitted(image, self.shape, self.shorter_side))
    # A broken file may make a decoder raise any exception.
    except Exception as error:
      reason = str(error).replace(f'{self.root}/', '') or type(error).__name__
      return Input(name, None, terminal.one_line(reason))


def find_all(
  given: Sequence[str | os.PathLike[str]], shape: Sequence[int], shorter_side: int | None = None
) -> Inputs:
  """Finds the images at several paths; they are read later.

  One path is searched as by `find`. Of several, each is an image file or a folder.

  Args:
    given: paths, or patterns (`photos/*.jpg`, `photos/**/*.png`), in this order.
    shape: (height, width, channels) that the network takes, one channel or three.
    shorter_side: as `find` has it.

  Raises:
    FileNotFoundError: if there is nothing at a path or by a pattern, or no image in a folder.
    ValueError: if a `.npy` file holds something else or is one of several paths, or a path is a
      FIFO, a socket or a device.
  """
  paths = [path for each in given for path in _matching(os.fspath(each))]
  if len(paths) == 1:
    return find(paths[0], shape, shorter_side)
  for path in paths:
    if path.suffix.lower() == '.npy':
      raise ValueError(f'{path}: give an array alone, not as one of several paths.')
  found = [find(path, shape, shorter_side) for path in paths]
  passed_over = sum(
    (collections.Counter(each.passed_over) for each in found), collections.Counter()
  )
  return Inputs(
    tuple(shape),
    files=[file for each in found for file in each.files],
    shorter_side=shorter_side,
    passed_over=passed_over,
  )


def _matching(given: str) -> list[pathlib.Path]:
  """Returns the path that was given, or those that it is a pattern of, sorted."""
  path = pathlib.Path(given).expanduser()
  if path.exists() or not glob.has_magic(given):
    return [path]
  # Not `Path.glob`, which takes no absolute patterns.
  found = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207
  if not found:
    raise FileNotFoundError(f'there is nothing by the pattern {given}.')
  return [pathlib.Path(each) for each in found]


def find(path: pathlib.Path, shape: Sequence[int], shorter_side: int | None = None) -> Inputs:
  """Finds the images at one path; they are read later.

  Files may be of any kind in `decode.FORMATS` and of any size; they are turned upright as their
  EXIF says, converted to grey or RGB (transparency dropped) and resized (bilinear, with
  antialiasing) where they differ from `shape`. Files of other kinds in a folder are passed over,
  and counted. What has the name of an image and cannot be read is found, too, as is a folder that
  cannot be listed: reading it says why.

  Args:
    path: A folder, searched with all folders in it; one image file; or a `.npy` file that holds
      uint8 [examples, height, width, channels], where an axis of one channel, or of one example,
      may be left out.
    shape: (height, width, channels) that the network takes, one channel or three.
    shorter_side: shorter side to which files are resized before their centre is taken, pixels, as
      in the evaluation of a streamed set; None resizes them to `shape`, whatever their proportions.

  Raises:
    FileNotFoundError: if there is nothing at `path`, or no image in the folder.
    ValueError: if the `.npy` file holds something else, or `path` is a FIFO, a socket or a device.
  """
  shape = tuple(shape)
  if path.is_dir():
    found = image_folder.search(path, decode.suffixes())
    if not found.files:
      others = f' ({image_folder.summary(found.passed_over)})' if found.passed_over else ''
      raise FileNotFoundError(f'{path} holds no image files{others}.')
    return Inputs(
      shape,
      files=found.files,
      root=path,
      shorter_side=shorter_side,
      passed_over=found.passed_over,
    )
  if not path.exists():
    raise FileNotFoundError(
      f'there is no {path}: give a folder of images, an image or a .npy file.'
    )
  if path.suffix.lower() == '.npy':
    return Inputs(shape, array=_load_array(path, shape))
  # Of a folder these are rows; alone, there is nothing else to do.
  files.open_regular(path).close()
  return Inputs(shape, files=[path], root=path.parent, shorter_side=shorter_side)


def _load_array(path: pathlib.Path, shape: tuple[int, ...]) -> np.ndarray:
  array = npy.read(path)
  if shape[-1] == 1 and array.shape[1:] == shape[:-1]:
    array = array[..., None]
  if array.shape == shape:
    array = array[None]
  if array.dtype == np.uint8 and array.shape[1:] == shape and len(array):
    return array
  raise ValueError(
    f'{path} holds {array.dtype}{list(array.shape)}: this network takes uint8 '
    f'[examples, {", ".join(map(str, shape))}].{_conversion(array, shape)}'
  )


def _conversion(array: np.ndarray, shape: tuple[int, ...]) -> str:
  """Returns the line of NumPy that makes the images of an array, if there is one; else nothing."""
  line, sizes = 'images', array.shape[1:]
  if sizes != shape and sizes == (shape[-1], *shape[:-1]):
    line, sizes = 'np.moveaxis(images, 1, -1)', shape
  if np.issubdtype(array.dtype, np.floating):
    line = f'np.clip({line} * 255, 0, 255).round().astype(np.uint8)'
  elif array.dtype != np.uint8:
    return ''
  said = ' if its values are from 0 to 1' if '255' in line else ''
  return f' Write {line}{said}.' if sizes == shape and line != 'images' else ''
