"""Loads the splits of a config's data set, and draws the examples held out of training."""

import numpy as np

from dpoq_jax import config as config_lib
from dpoq_jax.data import corrupt, examples, in_memory, streamed


def load_train(
  config: config_lib.Config, tally: corrupt.Tally
) -> tuple[examples.ExampleSet, examples.ExampleSet]:
  """Loads the training split in two: what is trained on, and the examples held out of it.

  Args:
    config: of the run.
    tally: counts corrupt records.

  Raises:
    ValueError: if nothing is left to train on.
    FileNotFoundError: if the data set is not there.
  """
  whole, holdout = _load(config.data, 'train', tally), config.data.holdout
  if holdout >= len(whole):
    raise ValueError(
      f'config.data.holdout={holdout}: the training split has {len(whole)} examples.'
    )
  # Three numbers, so that no epoch's order, drawn from two (seed, epoch), is the same draw.
  order = np.random.default_rng((config.seed, 0, holdout)).permutation(len(whole))
  if not holdout:
    return whole, whole.take(order[:0])
  return whole.take(np.sort(order[holdout:])), whole.take(np.sort(order[:holdout]))


def load_test(config: config_lib.Config, tally: corrupt.Tally) -> examples.ExampleSet:
  """Loads the examples that accuracies are reported on; see `load_train`."""
  return _load(config.data, config.data.test_split or 'test', tally)


def _load(data: config_lib.Data, split: str, tally: corrupt.Tally) -> examples.ExampleSet:
  """Loads a split into memory, or opens it to be streamed if its set is not one kept in memory."""
  if data.name in in_memory.DATASETS:
    if data.image_size is not None:
      raise ValueError(
        f'config.data.image_size={data.image_size}: the images of {data.name} are of one size; '
        'leave it out.'
      )
    return in_memory.load(data.name, split, data.dir)
  if data.image_size is None:
    # If the name is misspelt, that is the better thing to say.
    streamed.find(data.name, data.dir)
    raise ValueError(
      f'config.data.image_size is missing: {data.name} is streamed, its images cropped to a '
      'square; 224 is usual.'
    )
  options = streamed.Options(data.image_size, data.resize, data.workers)
  return streamed.load(data.name, split, data.dir, options, tally)
