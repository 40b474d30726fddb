"""Data sets that are read from disk and decoded as they are needed: ImageNet, any TFDS directory.

A batch is a function of (seed, step), as in memory: `pipeline.Order` says which examples it has,
and a random crop is drawn from (seed, epoch, position in the epoch's order). Grain calls that
function for one step after another, in worker processes or threads, and hands batches over in
order; how many workers there are changes nothing.
"""

from collections.abc import Generator
import dataclasses
import functools
import os
import pathlib
from typing import Any, cast

import numpy as np

from dpoq_jax.data import corrupt, crop, in_memory, tfds_directory, workers
from dpoq_jax.data import examples as examples_lib
from dpoq_jax.data.records import Records


@dataclasses.dataclass(frozen=True)
class Options:
  """How images are made of records.

  Attributes:
    image_size: side of the square that the network gets.
    resize: shorter side of an image in evaluation, before its centre is taken.
    workers: processes that decode; 0 decodes in threads of this one.
  """

  image_size: int
  resize: int
  workers: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class StreamedSet:
  """A labelled set of images on disk; a `pipeline.ExampleSet`.

  A corrupt record is skipped: its place in a training batch goes to the next intact one in the
  epoch's order, in an evaluation batch it is masked out.

  Attributes:
    records: all of the split.
    chosen: int64 [examples]: which of them are in this set, in this order.
    class_names: one name per class.
    options: how images are made of them.
    tally: of corrupt records.
  """

  records: Records
  chosen: np.ndarray
  class_names: tuple[str, ...]
  options: Options
  tally: corrupt.Tally

  def __len__(self) -> int:
    """Returns the number of examples, corrupt ones included."""
    return len(self.chosen)

  @property
  def num_classes(self) -> int:
    """Number of classes."""
    return len(self.class_names)

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(height, width, channels)."""
    return self.options.image_size, self.options.image_size, 3

  @property
  def images(self) -> 'Images':
    """As evaluation sees them, read as they are asked for."""
    return Images(self)

  def take(self, chosen: np.ndarray) -> 'StreamedSet':
    """The examples of these indices, in this order."""
    return dataclasses.replace(self, chosen=self.chosen[chosen])

  def training_batches(self, order: examples_lib.Order, start: int = 0) -> examples_lib.Batches:
    """See `pipeline.ExampleSet`; 'index', int64 [share], says which records of the split it has."""
    order.check_start(start)
    load = _TrainingBatch(self.records, self.chosen, self.options, self.tally.limit, order)
    return self._counted(workers.run(load, range(start, order.steps), self.options.workers))

  def evaluation_batches(self, batch_size: int) -> examples_lib.Batches:
    """See `pipeline.ExampleSet`; corrupt records are masked out; 'index' as in training."""
    slices = examples_lib.evaluation_slices(len(self), batch_size)
    load = _EvaluationBatch(self.records, self.chosen, self.options, self.tally.limit, batch_size)
    return self._counted(workers.run(load, range(len(slices)), self.options.workers))

  def _counted(self, loaded: Generator['_Loaded', None, None]) -> examples_lib.Batches:
    """Batches, once the corrupt records met on the way are counted."""
    try:
      for batch, corrupted in loaded:
        for each in corrupted:
          self.tally.note(each.name, each.reason)
        yield batch
    finally:
      loaded.close()


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
  """The images of a streamed set, decoded as they are asked for; acts like an array of them."""

  image_set: StreamedSet
  dtype: np.dtype = np.dtype(np.uint8)
  ndim: int = 4

  def __len__(self) -> int:
    """Number of images."""
    return len(self.image_set)

  @property
  def shape(self) -> tuple[int, ...]:
    """[examples, height, width, channels]."""
    return len(self), *self.image_set.image_shape

  def __getitem__(self, index: int) -> np.ndarray:
    """One image, uint8 [height, width, channels]; black if its record is corrupt."""
    chosen = self.image_set.take(np.array([index]))
    chosen = dataclasses.replace(chosen, options=dataclasses.replace(chosen.options, workers=0))
    (batch,) = chosen.evaluation_batches(1)
    return batch['image'][0]


def load(
  name: str,
  split: str,
  data_dir: str | os.PathLike[str] | None,
  options: Options,
  tally: corrupt.Tally,
) -> StreamedSet:
  """Opens one split of a TFDS data set.

  Args:
    name: of a TFDS data set, as `imagenet2012`, `name/config` or `name/config/version`, the newest
      version there is by default; or the path of a version directory.
    split: 'train', 'test', or another name of the set's own. There is a 'test' in every set: its
      validation split if it has one, as the labels of a test split may be secret.
    data_dir: TFDS directory that holds it, unless `name` is a path; None for TFDS's own default.
    options: how images are made of its records.
    tally: of corrupt records.

  Raises:
    FileNotFoundError: if the data set is not there or not whole.
    ValueError: if it is not stored as array_record, has no such split, or is no set of images with
      a class each.
  """
  path = find(name, data_dir)
  tfds_directory.check_directory(
    name,
    path,
    repair='copy or prepare it again.',
    convert=f'where TensorFlow is installed, run {tfds_directory.conversion_command(path)}',
  )
  import tensorflow_datasets as tfds

  info = cast(Any, tfds.builder_from_directory(path)).info
  features = dict(info.features.items()) if hasattr(info.features, 'items') else {}
  image, label = features.get('image'), features.get('label')
  if not (isinstance(image, tfds.features.Image) and isinstance(label, tfds.features.ClassLabel)):
    raise ValueError(
      f'data set {name} has features {", ".join(sorted(features))}: to be classified it needs an '
      'image called image and a class called label.'
    )
  if split == 'test' and 'validation' in info.splits:
    split = 'validation'
  if split not in info.splits:
    raise ValueError(f'data set {name} has no split {split!r}: it has {", ".join(info.splits)}.')
  return StreamedSet(
    Records(str(path), split),
    np.arange(info.splits[split].num_examples),
    tuple(label.names),
    options,
    tally,
  )


def find(name: str, data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
  """Returns the version directory of a data set named as in `load`.

  Raises:
    FileNotFoundError: if there is none.
  """
  known = ', '.join(in_memory.DATASETS)
  allowed = (
    f'config.data.name is one of {known}, a TFDS data set that is in config.data.dir, or the '
    'directory of a version of one.'
  )
  return tfds_directory.newest_version(name, data_dir, allowed=allowed)


# A batch, and the corrupt records met while it was loaded.
_Loaded = tuple[examples_lib.Batch, list[corrupt.CorruptRecord]]


@dataclasses.dataclass(frozen=True, eq=False)
class _TrainingBatch:
  """Loads the training batch of a step, in whatever process."""

  records: Records
  chosen: np.ndarray
  options: Options
  limit: int
  order: examples_lib.Order

  def __call__(self, step: int) -> _Loaded:
    batch, corrupted = _blank(self.order.share, self.options.image_size), {}
    epoch, positions = self.order.positions(step)
    shuffled = self.order.epoch(epoch)
    for row, position in enumerate(positions):
      # Three words seed the order of an epoch and the holdout; zeros at the end count as absent.
      rng = np.random.default_rng((self.order.seed, epoch, 1, position))
      crop_image = functools.partial(crop.training_crop, size=self.options.image_size, rng=rng)
      for following in range(position, position + len(shuffled)):
        index = int(self.chosen[shuffled[following % len(shuffled)]])
        loaded = corrupted.get(index) or self.records.load(index, crop_image)
        if not isinstance(loaded, corrupt.CorruptRecord):
          batch['image'][row], batch['label'][row] = loaded
          batch['index'][row] = index
          break
        corrupted[index] = loaded
        if len(corrupted) > self.limit:
          # Whoever counts them stops the run.
          return batch, list(corrupted.values())
      else:
        raise corrupt.CorruptRecordsError(
          f'none of {len(shuffled)} records of split {self.records.split} is intact: '
          f'{next(iter(corrupted.values())).reason}.'
        )
    return batch, list(corrupted.values())


@dataclasses.dataclass(frozen=True, eq=False)
class _EvaluationBatch:
  """Loads an evaluation batch, in whatever process."""

  records: Records
  chosen: np.ndarray
  options: Options
  limit: int
  batch_size: int

  def __call__(self, number: int) -> _Loaded:
    batch, corrupted = _blank(self.batch_size, self.options.image_size), []
    batch['mask'] = np.zeros(self.batch_size, bool)
    crop_image = functools.partial(
      crop.evaluation_crop, size=self.options.image_size, shorter_side=self.options.resize
    )
    first = number * self.batch_size
    for row, index in enumerate(self.chosen[first : first + self.batch_size].tolist()):
      loaded = self.records.load(index, crop_image)
      if not isinstance(loaded, corrupt.CorruptRecord):
        batch['image'][row], batch['label'][row] = loaded
        batch['index'][row], batch['mask'][row] = index, True
        continue
      corrupted.append(loaded)
      if len(corrupted) > self.limit:
        break
    return batch, corrupted


def _blank(examples: int, size: int) -> examples_lib.Batch:
  return {
    'image': np.zeros((examples, size, size, 3), np.uint8),
    'label': np.zeros(examples, np.int32),
    'index': np.zeros(examples, np.int64),
  }
