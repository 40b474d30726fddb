"""Loads the splits of a data set, and draws the examples that are held out of training."""

import math
import warnings

import numpy as np

from dpoq_jax import config as config_lib
from dpoq_jax.data import corrupt_records, examples, in_memory, streamed
from dpoq_jax.runtime import workdir


def load_train(
  config: config_lib.Config, tally: corrupt_records.Tally
) -> tuple[examples.ExampleSet, examples.ExampleSet]:
  """Loads the training split in two: what is trained on, and the examples held out of it.

  Args:
    config: config of the run.
    tally: counter of corrupt records.

  Returns:
    The examples that are trained on, and those held out (`config.data.holdout`, drawn by the seed).

  Raises:
    ValueError: if nothing is left to train on.
    FileNotFoundError: if the data set is not there.
  """
  whole, holdout = _load(config.data, config.data.train_split, tally), config.data.holdout
  if holdout >= len(whole):
    raise ValueError(
      f'config.data.holdout={holdout}: the training split has {len(whole)} examples.'
    )
  # Seeded by three numbers: the order of an epoch is seeded by two, (seed, epoch), so that no epoch
  # repeats this draw.
  order = np.random.default_rng((config.seed, 0, holdout)).permutation(len(whole))
  if not holdout:
    return whole, whole.take(order[:0])
  return whole.take(np.sort(order[holdout:])), whole.take(np.sort(order[:holdout]))


def load_test(config: config_lib.Config, tally: corrupt_records.Tally) -> examples.ExampleSet:
  """Loads the examples that accuracies are reported on; see `load_train`.

  Raises:
    ValueError: if some of them are trained on, too.
  """
  data = config.data
  found = _load(data, data.test_split, tally)
  if data.name not in in_memory.DATASETS:
    streamed.check_apart(data.name, data.dir, data.train_split, data.test_split)
  elif found.split == data.train_split:
    raise ValueError(f'config.data.train_split={found.split} is reported on, too: give another.')
  return found


def check(data: config_lib.Data) -> None:
  """Checks that a data set is there and whole, without reading its records.

  Raises:
    FileNotFoundError: if it is not; the message says what to do.
    ValueError: if it cannot be read.
  """
  if data.name in in_memory.DATASETS:
    in_memory.check(data.name, data.dir)
  else:
    streamed.check(data.name, data.dir)


def check_trained_on(
  data: config_lib.Data, image_set: examples.ExampleSet, facts: workdir.DatasetFacts
) -> None:
  """Checks that examples have the images and the classes that a network was trained on.

  Args:
    data: data of the config, for its name.
    image_set: examples, of any split.
    facts: facts of the data set that the network was trained on.

  Raises:
    ValueError: if they have others.
  """
  if (image_set.image_shape, image_set.class_names) != (facts.image_shape, facts.class_names):
    raise ValueError(
      f'data set {data.name} has images {image_set.image_shape} of {image_set.num_classes} '
      f'classes; those trained on were {facts.image_shape} of {len(facts.class_names)}, or of '
      'other names.'
    )


def _load(
  data: config_lib.Data, split: str | None, tally: corrupt_records.Tally
) -> examples.ExampleSet:
  """Loads a split into memory, or opens it to be streamed: as its data set, and size, have it."""
  if data.name in in_memory.DATASETS:
    if data.image_size is not None:
      raise ValueError(
        f'config.data.image_size={data.image_size}: the images of {data.name} are of one size; '
        'leave it out.'
      )
    return in_memory.load(data.name, split or 'test', data.dir)
  if data.image_size is None or data.resize is None:
    # Raises if there is no such data set: a misspelt name is the likelier mistake.
    streamed.find(data.name, data.dir)
    raise ValueError(
      f'config.data.image_size is missing: {data.name} is streamed, its images cropped to a '
      'square; 224 is usual.'
    )
  _warn_of_what_is_cut_off(data.image_size, data.resize)
  options = streamed.Options(data.image_size, data.resize, data.workers)
  found = streamed.load(data.name, split, data.dir, options, tally)
  return in_memory.decode_all(found) if size_gb(found) <= data.memory_gb else found


def size_gb(image_set: examples.ExampleSet) -> float:
  """Returns what the images of a set take once they are decoded, 1e9 bytes."""
  return len(image_set) * math.prod(image_set.image_shape) / 1e9


def whereabouts(image_set: examples.ExampleSet) -> str:
  """Returns how many images a set has, and where they are, in words."""
  size = ' x '.join(map(str, image_set.image_shape[:2]))
  where = 'in memory' if isinstance(image_set, in_memory.ImageSet) else 'streamed'
  return f'{len(image_set):,} images of {size}, {1000 * size_gb(image_set):,.3g} MB, {where}'


def _warn_of_what_is_cut_off(size: int, resize: int) -> None:
  """Warns if evaluation sees much less of the images than is usual."""
  usual = config_lib.usual_resize(size)
  # At half of the usual share of the area or less.
  if resize**2 > 2 * usual**2:
    warnings.warn(
      f'config.data.resize={resize}: evaluation sees the central {size} of {resize} pixels '
      f'of the shorter side, {size / resize:.0%}; leave it out for {usual}.',
      stacklevel=2,
    )
