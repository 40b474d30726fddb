"""Defines sets of examples, and decides which examples each step gets from (seed, step) alone.

There is no iterator whose state would have to be saved: the step is the state. That lets a run
resume in mid-epoch exactly where it stopped, with any number of worker processes, and gives every
process of a run its share of the same batches.
"""

from collections.abc import Generator
from typing import Any, Protocol

import numpy as np

from dpoq_jax.data.order import Order

Batch = dict[str, np.ndarray]
# Generators rather than iterators, as those that read ahead have to be closed.
Batches = Generator[Batch, None, None]


class ExampleSet(Protocol):
  """Describes a labelled set of images, in memory or on disk, as training and evaluation use it."""

  @property
  def split(self) -> str:
    """Returns the name of the split, or part of one, that the examples are of."""
    ...

  @property
  def class_names(self) -> tuple[str, ...]:
    """Returns one name per class."""
    ...

  @property
  def num_classes(self) -> int:
    """Returns the number of classes."""
    ...

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Returns (height, width, channels) of every image."""
    ...

  @property
  def images(self) -> Any:
    """Returns the images as evaluation sees them.

    They are an array, uint8 [examples, height, width, channels], or act like one.
    """
    ...

  def __len__(self) -> int:
    """Returns the number of examples."""
    ...

  def take(self, chosen: np.ndarray) -> 'ExampleSet':
    """Returns the set of the examples with these indices, in this order."""
    ...

  def training_batches(self, order: 'Order', start: int = 0) -> Batches:
    """Yields this process's share of each batch from step `start` to the end of the run.

    Args:
      order: order of a run on this set.
      start: first step; a run that stopped after `n` steps resumes with `start=n`.

    Returns:
      An iterator over {'image': uint8 [share, height, width, channels], 'label': int32 [share]},
      with more entries perhaps. Close it if it is left before its end.

    Raises:
      ValueError: if an argument is out of range.
    """
    ...

  def evaluation_batches(self, batch_size: int) -> Batches:
    """Yields every example once, in order, in batches of one size.

    The last batch is filled up with black images of class 0, so that one compiled function serves
    all batches; the mask says which examples count.

    Args:
      batch_size: examples per batch.

    Returns:
      An iterator over {'image': uint8 [batch, height, width, channels], 'label': int32 [batch],
      'mask': bool [batch]}, with more entries perhaps. Close it if it is left before its end.

    Raises:
      ValueError: if `batch_size` is not positive.
    """
    ...
