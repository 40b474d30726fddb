"""Says which examples each step, epoch and process gets."""

import dataclasses
import functools

import numpy as np


@dataclasses.dataclass(frozen=True)
class Order:
  """Describes which examples each step of a run gets.

  The order of an epoch is a permutation of its own; the examples that do not fill a batch at its
  end are left out, others in each epoch.

  Attributes:
    num_examples: number of examples in the training set.
    batch_size: examples per step, over all processes.
    seed: seed of the run, 0 or more.
    epochs: number of epochs of the run.
    process: number of this process, from 0.
    processes: number of processes that share each batch, in contiguous parts of one size.

  Raises:
    ValueError: if one of these is out of range.
  """

  num_examples: int
  batch_size: int
  seed: int
  epochs: int
  process: int = 0
  processes: int = 1

  def __post_init__(self) -> None:
    """Checks the bounds above."""
    steps_per_epoch(self.num_examples, self.batch_size)
    if self.seed < 0 or self.epochs < 1:
      raise ValueError(
        f'seed={self.seed}, epochs={self.epochs}: a seed is 0 or more, epochs are 1 or more.'
      )
    if not 0 <= self.process < self.processes:
      raise ValueError(
        f'process={self.process}: there are {self.processes} processes, counted from 0.'
      )
    if self.batch_size % self.processes:
      raise ValueError(
        f'batch_size={self.batch_size} is not divisible by the {self.processes} processes.'
      )

  @property
  def steps(self) -> int:
    """Returns the number of steps of the whole run."""
    return self.epochs * steps_per_epoch(self.num_examples, self.batch_size)

  @property
  def share(self) -> int:
    """Returns how many examples this process takes in each step."""
    return self.batch_size // self.processes

  def epoch(self, number: int) -> np.ndarray:
    """Returns the examples of an epoch in its order, int64 [num_examples], read-only."""
    return _permutation(self.num_examples, self.seed, number)

  def positions(self, step: int) -> tuple[int, range]:
    """Returns the epoch of a step, and the positions in its order that this process takes."""
    epoch, index = divmod(step, steps_per_epoch(self.num_examples, self.batch_size))
    first = index * self.batch_size + self.process * self.share
    return epoch, range(first, first + self.share)

  def examples(self, step: int) -> np.ndarray:
    """Returns the examples that this process takes in a step, int64 [share]."""
    epoch, positions = self.positions(step)
    return self.epoch(epoch)[positions.start : positions.stop]

  def check_start(self, step: int) -> None:
    """Checks that a run can start, or be resumed, at this step.

    Raises:
      ValueError: unless 0 <= step <= steps.
    """
    if not 0 <= step <= self.steps:
      raise ValueError(f'start={step}: a run of {self.steps} steps starts at 0 to {self.steps}.')


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
  """Returns how many full batches an epoch has; the remainder is dropped.

  Raises:
    ValueError: unless 1 <= batch_size <= num_examples.
  """
  if not 1 <= batch_size <= num_examples:
    raise ValueError(
      f'batch_size={batch_size}: a training batch has 1 to {num_examples} examples, the size of '
      'the training set.'
    )
  return num_examples // batch_size


def shard(num_examples: int, index: int, count: int) -> range:
  """Returns part `index` of `count` contiguous parts, whose sizes differ by one at most."""
  return range(index * num_examples // count, (index + 1) * num_examples // count)


def evaluation_slices(num_examples: int, batch_size: int) -> list[slice]:
  """Returns the examples of each evaluation batch; the last one may have fewer.

  Raises:
    ValueError: if `batch_size` is not positive.
  """
  if batch_size < 1:
    raise ValueError(f'batch_size={batch_size}: an evaluation batch has 1 or more examples.')
  starts = range(0, num_examples, batch_size)
  return [slice(start, min(start + batch_size, num_examples)) for start in starts]


# Cached, as every step of an epoch needs it; two, as threads may be at either side of its end.
@functools.lru_cache(maxsize=2)
def _permutation(num_examples: int, seed: int, epoch: int) -> np.ndarray:
  order = np.random.default_rng((seed, epoch)).permutation(num_examples)
  order.setflags(write=False)
  return order
