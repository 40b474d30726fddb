"""Loads the splits of a data set, and draws the examples that are held out of training."""

import numpy as np

from dpoq_jax import config as config_lib
from dpoq_jax.data import corrupt_records, examples, in_memory, streamed


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
  whole, holdout = _load(config.data, 'train', tally), config.data.holdout
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
  """Loads the examples that accuracies are reported on; see `load_train`."""
  return _load(config.data, config.data.test_split or 'test', tally)


def _load(data: config_lib.Data, split: str, tally: corrupt_records.Tally) -> examples.ExampleSet:
  """Loads a split into memory, or opens it to be streamed, as its data set is one or the other."""
  if data.name in in_memory.DATASETS:
    if data.image_size is not None:
      raise ValueError(
        f'config.data.image_size={data.image_size}: the images of {data.name} are of one size; '
        'leave it out.'
      )
    return in_memory.load(data.name, split, data.dir)
  if data.image_size is None:
    # Raises if there is no such data set: a misspelt name is the likelier mistake.
    streamed.find(data.name, data.dir)
    raise ValueError(
      f'config.data.image_size is missing: {data.name} is streamed, its images cropped to a '
      'square; 224 is usual.'
    )
  options = streamed.Options(data.image_size, data.resize, data.workers)
  return streamed.load(data.name, split, data.dir, options, tally)
