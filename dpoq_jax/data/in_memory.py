"""Loads small data sets into memory, as uint8 images and int32 labels that are decoded once.

A batch of 128 CIFAR images is gathered in well under a tenth of a millisecond, so there are no
workers and no queues.
"""

import contextlib
import dataclasses
import io
import os
import pathlib
from typing import Any, cast

import numpy as np

from dpoq_jax.config import names
from dpoq_jax.data import decode, decoded, examples, tfds_directory
from dpoq_jax.data.order import Order, evaluation_slices
from dpoq_jax.runtime import terminal

SPLITS = ('train', 'test')


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
  """Describes a data set before it is read.

  Attributes:
    num_classes: number of classes.
    image_shape: (height, width, channels) of every image.
    tfds_version: version of the TFDS data set; None for one that needs no files.
  """

  num_classes: int
  image_shape: tuple[int, int, int]
  tfds_version: str | None


# The data sets that are kept in memory, by name; a set of any other name is streamed.
DATASETS = {
  'digits': DatasetSpec(10, (8, 8, 1), None),
  'cifar10': DatasetSpec(10, (32, 32, 3), '3.0.2'),
  'cifar100': DatasetSpec(100, (32, 32, 3), '3.0.2'),
}


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSet:
  """Holds a labelled set of images in memory; an `examples.ExampleSet`.

  Attributes:
    images: uint8 [examples, height, width, channels].
    labels: int32 [examples], each in [0, num_classes).
    class_names: one name per class.
    split: name of the split that they are of; empty if they are of none.

  Raises:
    ValueError: if a shape, a dtype or a label differs from these.
  """

  images: np.ndarray
  labels: np.ndarray
  class_names: tuple[str, ...]
  split: str = ''

  def __post_init__(self) -> None:
    """Checks the invariants above."""
    if self.images.ndim != 4 or self.images.dtype != np.uint8:
      raise ValueError(
        f'images are {self.images.dtype}{list(self.images.shape)}, not uint8 '
        '[examples, height, width, channels].'
      )
    if self.labels.shape != self.images.shape[:1] or self.labels.dtype != np.int32:
      raise ValueError(
        f'labels are {self.labels.dtype}{list(self.labels.shape)}, not int32 '
        f'[{len(self.images)}], one for each image.'
      )
    if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < self.num_classes:
      raise ValueError(
        f'labels run from {self.labels.min()} to {self.labels.max()}, but there are '
        f'{self.num_classes} class names.'
      )

  def __len__(self) -> int:
    """Returns the number of examples."""
    return len(self.labels)

  @property
  def num_classes(self) -> int:
    """Returns the number of classes."""
    return len(self.class_names)

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Returns (height, width, channels) of every image."""
    height, width, channels = self.images.shape[1:]
    return height, width, channels

  def take(self, chosen: np.ndarray) -> 'ImageSet':
    """Returns the set of the examples with these indices, in this order."""
    return dataclasses.replace(self, images=self.images[chosen], labels=self.labels[chosen])

  def training_batches(self, order: Order, start: int = 0) -> examples.Batches:
    """Yields training batches; see `examples.ExampleSet`."""
    order.check_start(start)
    return (self._training_batch(order, step) for step in range(start, order.steps))

  def evaluation_batches(self, batch_size: int) -> examples.Batches:
    """Yields evaluation batches; see `examples.ExampleSet`."""
    slices = evaluation_slices(len(self), batch_size)
    return (self._padded(chosen, batch_size) for chosen in slices)

  def _training_batch(self, order: Order, step: int) -> examples.Batch:
    chosen = order.examples(step)
    return {'image': self.images[chosen], 'label': self.labels[chosen]}

  def _padded(self, chosen: slice, size: int) -> examples.Batch:
    batch = {'image': self.images[chosen], 'label': self.labels[chosen]}
    batch['mask'] = np.ones(len(batch['label']), bool)
    missing = size - len(batch['label'])
    return {
      name: np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1))
      for name, array in batch.items()
    }


def load(name: str, split: str, data_dir: str | os.PathLike[str] | None = None) -> ImageSet:
  """Reads one split of a data set into memory.

  Args:
    name: one of `DATASETS`. `digits` are scikit-learn's 1,797 handwritten digits, which need no
      files; the others are read from where `dpoq_jax.data.prepare` (or TFDS) wrote them.
    split: 'train' or 'test'.
    data_dir: directory of all TFDS data sets; None for TFDS's own default, $TFDS_DATA_DIR or
      ~/tensorflow_datasets.

  Returns:
    The split, in the order in which it is stored.

  Raises:
    ValueError: for an unknown name or split, or files that are damaged or that only TensorFlow
      reads.
    FileNotFoundError: if the data set is not there or not whole; the message holds the command
      that writes it.
  """
  spec = find_spec(name)
  if split not in SPLITS:
    raise ValueError(
      f'unknown split {split!r}: a data set in memory has {" and ".join(SPLITS)}, whole.'
    )
  if spec.tfds_version is None:
    return _load_digits(split)
  path = tfds_directory.prepared_dir(name, spec.tfds_version, data_dir)
  check(name, data_dir)
  repair = tfds_directory.how_to_repair(name, path)
  builder = tfds_directory.open_builder(name, path, repair=repair)
  tfds_directory.check_counts(name, path, builder.info, split, repair=repair)
  try:
    # TFDS raises what it happens to where there is no such split.
    sources = [pathlib.Path(each) for each in builder.info.splits[split].filepaths]
    images, labels = decoded.decoded(path, split, sources, lambda: _read_records(builder, split))
    return ImageSet(images, labels, tuple(builder.info.features['label'].names), split)
  except MemoryError:
    raise
  # Bytes that fail their checksum, as array_record says, or make a decoder raise anything.
  except Exception as error:
    raise ValueError(
      f'data set {name} in {path} is damaged: {repair} ({terminal.one_line(error)})'
    ) from error


def decode_all(source: examples.ExampleSet) -> ImageSet:
  """Decodes a streamed set once, as evaluation sees it, without records that cannot be read.

  Raises:
    CorruptRecordsError: if these are more than may be skipped.
    ValueError: if none can be read.
  """
  images = np.empty((len(source), *source.image_shape), np.uint8)
  labels = np.empty(len(source), np.int32)
  count = 0
  with contextlib.closing(source.evaluation_batches(min(len(source), 256))) as batches:
    for batch in batches:
      intact = batch['mask']
      end = count + int(intact.sum())
      images[count:end], labels[count:end] = batch['image'][intact], batch['label'][intact]
      count = end
  if not count:
    raise ValueError(f'no record of split {source.split} can be read.')
  return ImageSet(images[:count], labels[:count], source.class_names, source.split)


def check(name: str, data_dir: str | os.PathLike[str] | None = None) -> None:
  """Checks that a data set is where `load` reads it, without reading its records.

  Raises:
    ValueError, FileNotFoundError: see `load`.
  """
  version = find_spec(name).tfds_version
  if version is not None:
    tfds_directory.check_prepared(name, tfds_directory.prepared_dir(name, version, data_dir))


def find_spec(name: str) -> DatasetSpec:
  """Returns the entry of a data set in `DATASETS`.

  Raises:
    ValueError: for an unknown name, naming the known ones and the one most like it.
  """
  if name not in DATASETS:
    raise ValueError(f'unknown data set {name!r}: {names.hint(name, DATASETS, listed=True)}')
  return DATASETS[name]


def _read_records(builder: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
  """Decodes every record of a TFDS directory: about 0.12 ms each for 32x32 PNGs, on one core.

  Threads make it slower: decoding an image so small is mostly Python, under the interpreter lock.
  """
  import tensorflow_datasets as tfds

  features = builder.info.features
  # Decoding with TFDS takes nearly twice as long.
  source = builder.as_data_source(split, decoders={'image': tfds.decode.SkipDecoding()})
  shape = features['image'].shape
  # Before memory is taken for as many of that shape as there are records.
  _pixels(source[0], 0, shape)
  images = np.empty((len(source), *shape), np.uint8)
  labels = np.empty(len(source), np.int32)
  block = 1000  # Records read at once; reading all of them at once would double the memory.
  for first in range(0, len(source), block):
    positions = range(first, min(first + block, len(source)))
    for position, example in zip(positions, source.__getitems__(list(positions)), strict=True):
      images[position] = _pixels(example, position, shape)
      labels[position] = example['label']
  return images, labels


def _pixels(example: dict[str, Any], position: int, shape: tuple[int, ...]) -> np.ndarray:
  """Decodes the image of a record, which has to be of the shape that the data set says.

  NumPy would repeat a smaller one.
  """
  with decode.opened(io.BytesIO(example['image'])) as image:
    pixels = np.asarray(decode.decoded(image, shape[-1]))
  if pixels.shape != shape:
    raise ValueError(f'record {position} is an image of {list(pixels.shape)}, not {list(shape)}.')
  return pixels


def _load_digits(split: str) -> ImageSet:
  """Loads scikit-learn's digits; 80 % of each class, drawn with seed 0, are for training."""
  from sklearn import datasets, model_selection

  pixels, labels = cast(Any, datasets).load_digits(return_X_y=True)
  train, test = cast(Any, model_selection).train_test_split(
    np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0
  )
  chosen = train if split == 'train' else test
  # The pixels of the original run from 0 to 16.
  images = np.rint(pixels[chosen].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
  return ImageSet(images, labels[chosen].astype(np.int32), tuple('0123456789'), split)
