"""Streams data sets from disk, decoded as they are needed: ImageNet, any TFDS directory of images.

A batch is a function of (seed, step), as in memory: `Order` says which examples it has,
and a random crop is drawn from (seed, epoch, position in the epoch's order). Grain calls that
function for one step after another, in worker processes or threads, and hands the batches over in
order; so the number of workers changes nothing.
"""

from collections.abc import Generator, Mapping
import dataclasses
import functools
import os
import pathlib
from typing import Any, cast

import numpy as np

from dpoq_jax.data import (
  corrupt_records,
  crop,
  examples,
  in_memory,
  tfds_directory,
  tfds_splits,
  workers,
)
from dpoq_jax.data.corrupt_records import CorruptRecord
from dpoq_jax.data.order import Order, evaluation_slices
from dpoq_jax.data.records import Example, Records

# A batch, and the corrupt records met while it was loaded.
_Loaded = tuple[examples.Batch, list[CorruptRecord]]

# What to do about a directory that is damaged.
_REPAIR = 'copy or prepare it again.'


@dataclasses.dataclass(frozen=True)
class Options:
  """Describes how images are made of records.

  Attributes:
    image_size: side of the square that the network gets, pixels.
    resize: shorter side of an image in evaluation before its centre is taken, pixels.
    workers: number of processes that decode; 0 decodes in threads of this process.
  """

  image_size: int
  resize: int
  workers: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class StreamedSet:
  """Holds a labelled set of images that stay on disk; an `examples.ExampleSet`.

  A corrupt record is skipped: its place in a training batch goes to the next intact one in the
  epoch's order (`corrupt_records.positions_to_try`), in an evaluation batch it is masked out.

  Attributes:
    records: all records of the split.
    chosen: indices of the records in this set, in its order, int64 [examples].
    class_names: one name per class.
    options: how images are made of the records.
    tally: corrupt records met so far, shared with the other sets of a run.
  """

  records: Records
  chosen: np.ndarray
  class_names: tuple[str, ...]
  options: Options
  tally: corrupt_records.Tally

  def __len__(self) -> int:
    """Returns the number of examples, corrupt ones included."""
    return len(self.chosen)

  @property
  def split(self) -> str:
    """Returns the name of the split, or part of one, that the examples are of."""
    return self.records.split

  @property
  def num_classes(self) -> int:
    """Returns the number of classes."""
    return len(self.class_names)

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Returns (height, width, channels) of every image."""
    return self.options.image_size, self.options.image_size, 3

  @property
  def images(self) -> '_Images':
    """Returns the images as evaluation sees them, each read when it is asked for."""
    return _Images(self)

  def take(self, chosen: np.ndarray) -> 'StreamedSet':
    """Returns the set of the examples with these indices, in this order."""
    return dataclasses.replace(self, chosen=self.chosen[chosen])

  def training_batches(self, order: Order, start: int = 0) -> examples.Batches:
    """Yields training batches; see `examples.ExampleSet`.

    A batch has one more entry, 'index', int64 [share]: the number of each record in the split.
    """
    order.check_start(start)
    load = _TrainingBatch(self.records, self.chosen, self.options, self.tally.limit, order)
    return self._counted(workers.run(load, range(start, order.steps), self.options.workers))

  def evaluation_batches(self, batch_size: int) -> examples.Batches:
    """Yields evaluation batches; see `examples.ExampleSet`.

    Corrupt records are masked out. A batch has one more entry, 'index', as in training.
    """
    slices = evaluation_slices(len(self), batch_size)
    load = _EvaluationBatch(self.records, self.chosen, self.options, self.tally.limit, batch_size)
    return self._counted(workers.run(load, range(len(slices)), self.options.workers))

  def _counted(self, loaded: Generator[_Loaded, None, None]) -> examples.Batches:
    """Yields each batch after counting the corrupt records met while it was loaded."""
    try:
      for batch, corrupted in loaded:
        for record in corrupted:
          self.tally.note(record)
        yield batch
    finally:
      loaded.close()


@dataclasses.dataclass(frozen=True, eq=False)
class _Images:
  """Holds the images of a streamed set, each decoded when it is asked for; acts like an array."""

  image_set: StreamedSet
  dtype: np.dtype[np.uint8] = np.dtype(np.uint8)
  ndim: int = 4

  def __len__(self) -> int:
    """Returns the number of images."""
    return len(self.image_set)

  @property
  def shape(self) -> tuple[int, ...]:
    """Returns (examples, height, width, channels)."""
    return len(self), *self.image_set.image_shape

  def __getitem__(self, index: int) -> np.ndarray:
    """Returns one image, uint8 [height, width, channels]; black if its record is corrupt."""
    chosen = self.image_set.take(np.array([index]))
    chosen = dataclasses.replace(chosen, options=dataclasses.replace(chosen.options, workers=0))
    (batch,) = chosen.evaluation_batches(1)
    return batch['image'][0]


def load(
  name: str,
  split: str | None,
  data_dir: str | os.PathLike[str] | None,
  options: Options,
  tally: corrupt_records.Tally,
) -> StreamedSet:
  """Opens one split of a TFDS data set.

  Args:
    name: TFDS data set, as `imagenet2012`, `name/config` or `name/config/version`, by default the
      newest version there is; or the path of a version directory.
    split: a split that the data set has, or a part of one, as TFDS writes it (`train[90%:]`). None
      is the one to report on: `validation`, as the labels of a test split may be secret, or else
      `test`.
    data_dir: directory of all TFDS data sets, unless `name` is a path; None for TFDS's default.
    options: how images are made of the records.
    tally: corrupt records met so far.

  Raises:
    FileNotFoundError: if the data set is not there or not whole.
    ValueError: if it is not stored as array_record, has no such split, or is no set of images of
      8 or 16 bits with a class each.
  """
  path, info = _opened(name, data_dir)
  features: dict[str, Any] = dict(info.features.items()) if hasattr(info.features, 'items') else {}
  _check_features(name, features)
  split = tfds_splits.reported(name, info.splits) if split is None else split
  size = tfds_splits.size(name, info.splits, split)
  tfds_directory.check_counts(name, path, info, split, repair=_REPAIR)
  return StreamedSet(
    Records(str(path), split),
    np.arange(size),
    tuple(features['label'].names),
    options,
    tally,
  )


def check_apart(
  name: str, data_dir: str | os.PathLike[str] | None, trained: str, reported_on: str | None
) -> None:
  """Checks that no example of a data set is both trained and reported on; see `load`.

  Raises:
    ValueError: if one is; or as `load` does.
    FileNotFoundError: as `load` does.
  """
  _, info = _opened(name, data_dir)
  reported_on = tfds_splits.reported(name, info.splits) if reported_on is None else reported_on
  tfds_splits.check_apart(name, info.splits, trained, reported_on)


def check(name: str, data_dir: str | os.PathLike[str] | None) -> None:
  """Checks that a data set is there and whole, without reading its records.

  Raises:
    ValueError, FileNotFoundError: see `load`.
  """
  _opened(name, data_dir)


def _opened(name: str, data_dir: str | os.PathLike[str] | None) -> tuple[pathlib.Path, Any]:
  """Returns the version directory of a data set, and what TFDS says of it."""
  path = find(name, data_dir)
  convert = f'where TensorFlow is installed, run {tfds_directory.conversion_command(path)}'
  tfds_directory.check_directory(name, path, repair=_REPAIR, convert=convert)
  return path, tfds_directory.open_builder(name, path, repair=_REPAIR).info


def _check_features(name: str, features: Mapping[str, Any]) -> None:
  """Checks that each record is an image of whole numbers, and its class."""
  import tensorflow_datasets as tfds

  image, label = features.get('image'), features.get('label')
  if not (isinstance(image, tfds.features.Image) and isinstance(label, tfds.features.ClassLabel)):
    raise ValueError(
      f'data set {name} has features {", ".join(sorted(features))}: to be classified it needs an '
      'image called image and a class called label.'
    )
  # TFDS keeps the bytes of other numbers as if they were the colours of a picture.
  kind = np.dtype(cast(Any, image).np_dtype)
  if kind not in (np.uint8, np.uint16):
    raise ValueError(f'data set {name} has images of {kind}: only uint8 and uint16 are read.')


def find(name: str, data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
  """Finds the version directory of a data set that is named as in `load`.

  Raises:
    FileNotFoundError: if there is none.
  """
  known = ', '.join(in_memory.DATASETS)
  allowed = (
    f'config.data.name is one of {known}, a TFDS data set that is in config.data.dir, or the '
    'directory of a version of one; `dpoq prepare folder` makes one of your own images.'
  )
  return tfds_directory.newest_version(name, data_dir, allowed=allowed)


@dataclasses.dataclass(frozen=True, eq=False)
class _TrainingBatch:
  """Loads the training batch of a step; pickled, so that worker processes can do it."""

  records: Records
  chosen: np.ndarray
  options: Options
  limit: int
  order: Order

  def __call__(self, step: int) -> _Loaded:
    batch = _blank(self.order.share, self.options.image_size)
    corrupted: dict[int, CorruptRecord] = {}
    epoch, positions = self.order.positions(step)
    for place, position in enumerate(positions):
      found = self._first_intact(epoch, position, corrupted)
      if found is None:
        # The batch is never used: counting its corrupt records stops the run.
        break
      batch['index'][place], (batch['image'][place], batch['label'][place]) = found
    return batch, list(corrupted.values())

  def _first_intact(
    self, epoch: int, position: int, corrupted: dict[int, CorruptRecord]
  ) -> tuple[int, Example] | None:
    """Loads the record at a position of an epoch, or the next one there that is intact.

    Args:
      epoch: number of the epoch.
      position: position in its order; the random crop depends on it, whichever record is found.
      corrupted: corrupt records of this batch, by index; those met here are added.

    Returns:
      The index of the record in the split, and the record; None if more records than the limit are
      corrupt.

    Raises:
      CorruptRecordsError: if no record is intact.
    """
    # Differs from the seeds of an epoch's order, (seed, epoch), and of the holdout, (seed, 0,
    # holdout). The third number is not 0, as zeros at the end of a seed count as absent.
    rng = np.random.default_rng((self.order.seed, epoch, 1, position))
    crop_image = functools.partial(crop.training_crop, size=self.options.image_size, rng=rng)
    shuffled = self.order.epoch(epoch)
    for candidate in corrupt_records.positions_to_try(position, len(shuffled)):
      index = int(self.chosen[shuffled[candidate]])
      loaded = corrupted.get(index) or self.records.load(index, crop_image)
      if not isinstance(loaded, CorruptRecord):
        return index, loaded
      corrupted[index] = loaded
      if len(corrupted) > self.limit:
        return None
    raise corrupt_records.CorruptRecordsError(
      f'none of {len(shuffled)} records of split {self.records.split} is intact: '
      f'{next(iter(corrupted.values())).reason}.'
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _EvaluationBatch:
  """Loads the evaluation batch of a number; pickled, so that worker processes can do it."""

  records: Records
  chosen: np.ndarray
  options: Options
  limit: int
  batch_size: int

  def __call__(self, number: int) -> _Loaded:
    batch = _blank(self.batch_size, self.options.image_size)
    batch['mask'] = np.zeros(self.batch_size, bool)
    corrupted: list[CorruptRecord] = []
    crop_image = functools.partial(
      crop.evaluation_crop, size=self.options.image_size, shorter_side=self.options.resize
    )
    first = number * self.batch_size
    for place, index in enumerate(self.chosen[first : first + self.batch_size].tolist()):
      loaded = self.records.load(index, crop_image)
      if not isinstance(loaded, CorruptRecord):
        batch['image'][place], batch['label'][place] = loaded
        batch['index'][place], batch['mask'][place] = index, True
        continue
      corrupted.append(loaded)
      if len(corrupted) > self.limit:
        break
    return batch, corrupted


def _blank(batch_size: int, image_size: int) -> examples.Batch:
  return {
    'image': np.zeros((batch_size, image_size, image_size, 3), np.uint8),
    'label': np.zeros(batch_size, np.int32),
    'index': np.zeros(batch_size, np.int64),
  }
