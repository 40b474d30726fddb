"""Decides when each path of a cascade runs, and on which inputs.

An input that does not leave at a precision waits, with its laterals, in the pool of the next path.
A path runs once its pool holds `path_batch_size` inputs, or when no more are to come. What remains
of one batch is thereby packed together with what remains of others.

A path runs on batches of a few sizes, `path_batch_size` at most. So the number of programs does
not depend on how many inputs remain, nor memory on the device on the size of the batches fed.
"""

import collections
from collections.abc import Hashable, Iterator, Mapping
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpoq_jax.inference import path_programs
from dpoq_jax.inference.operating_point import OperatingPoint
from dpoq_jax.inference.path_programs import PathInputs


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
  """Holds what a cascade predicts of a batch, and what that cost.

  Attributes:
    labels: int64 [batch], the most probable class.
    probabilities: float64 [batch, classes], by the combination of the operating point.
    precisions: int64 [batch], bits of the precision each input left at.
    cost: float64 [batch], BitOPs relative to the lowest precision.
  """

  labels: np.ndarray
  probabilities: np.ndarray
  precisions: np.ndarray
  cost: np.ndarray

  def __repr__(self) -> str:
    """Returns how many inputs left at which precisions, in a line."""
    found = zip(*np.unique(self.precisions, return_counts=True), strict=True)
    exits = ', '.join(f'{count} at {precision} bits' for precision, count in found)
    return f'Result({len(self.labels)} inputs: {exits})'


@dataclasses.dataclass
class Counts:
  """Counts what a cascade has run so far, for measurements.

  Attributes:
    inputs: number of inputs run on each path.
    padded: the same, with the padding up to the sizes of the programs.
  """

  inputs: list[int]
  padded: list[int]


class Pool:
  """Holds the inputs that wait for a path, on the device.

  Attributes:
    inputs: images and laterals, with room for `capacity`; None until the first are added.
    count: number of inputs that wait.
  """

  def __init__(self, capacity: int):
    """Makes an empty pool."""
    self._capacity = capacity
    self.inputs: PathInputs | None = None
    self.count = 0
    self._ids: list[np.ndarray] = []
    self._probabilities: list[list[np.ndarray]] = []

  def add(
    self, inputs: PathInputs, chosen: np.ndarray, ids: np.ndarray, probabilities: list[np.ndarray]
  ) -> int:
    """Copies the first of the chosen inputs, as many as there is room for; returns how many.

    Args:
      inputs: a batch, of which some go on.
      chosen: their positions in it.
      ids: number of each input of the batch in its stream.
      probabilities: [inputs, classes] of the batch at each path below.
    """
    taken = chosen[: self._capacity - self.count]
    if self.inputs is None:
      self.inputs = jax.tree.map(self._with_room, inputs)
    indices = np.zeros(len(inputs.images), np.int32)
    indices[: len(taken)] = taken
    self.inputs = path_programs.copy_inputs(
      self.inputs, inputs, indices, np.int32(len(taken)), np.int32(self.count)
    )
    self._ids.append(ids[taken])
    self._probabilities.append([each[taken] for each in probabilities])
    self.count += len(taken)
    return len(taken)

  def take(self) -> tuple[PathInputs, np.ndarray, list[np.ndarray]]:
    """Empties the pool, whose room on the device is used again.

    Returns:
      The batch with all of its room, of which the first inputs are those that waited, with their
      numbers and their probabilities at each path below.
    """
    assert self.inputs is not None
    ids = np.concatenate(self._ids)
    probabilities = [np.concatenate(each) for each in zip(*self._probabilities, strict=True)]
    self.count, self._ids, self._probabilities = 0, [], []
    return self.inputs, ids, probabilities

  def _with_room(self, leaf: jax.Array) -> jax.Array:
    return jnp.zeros((self._capacity, *leaf.shape[1:]), leaf.dtype)


class Paths:
  """Runs the paths of a network on a device, and lends the pools between them.

  Attributes:
    network: the network.
    variables: variables of each path, on the device.
    counts: what was run so far.
  """

  def __init__(self, network: path_programs.Network, variables: Mapping[str, Any]):
    """Puts the variables on the device."""
    self.network = network
    count = len(network.bits)
    self.variables: list[Any] = [
      jax.device_put(network.variables_of_path(variables, index)) for index in range(count)
    ]
    self.counts = Counts([0] * count, [0] * count)
    # Pools are kept between calls: allocating them anew takes longer than filling them.
    self._spare: dict[Hashable, list[list[Pool]]] = {}

  def borrow(self, key: Hashable, capacity: int) -> list[Pool]:
    """Returns an empty pool for each path; `key` stands for what fits in them."""
    # Several threads may call one cascade. Looking first whether there is a spare one would leave
    # another thread time to take it; `pop` cannot be interrupted.
    try:
      return self._spare.setdefault(key, []).pop()
    except IndexError:
      return [Pool(capacity) for _ in self.variables]

  def give_back(self, key: Hashable, pools: list[Pool]) -> None:
    """Keeps empty pools for the next call."""
    self._spare[key].append(pools)

  def run(
    self, index: int, inputs: PathInputs, size: int, count: int
  ) -> tuple[jax.Array, PathInputs]:
    """Starts a path, and returns before the device has finished.

    Args:
      index: the path, from 0.
      inputs: a batch of at least `size`.
      size: how much of it to run on; one of `path_programs.path_size`.
      count: how many of these are inputs; the others are padding.

    Returns:
      Logits [size, classes], and the batch with the laterals of this path added, which end at
      `size`.
    """
    self.counts.inputs[index] += count
    self.counts.padded[index] += size
    own = self.variables[index]
    logits, handed_up = path_programs.run_path(self.network, index, own, inputs, size)
    return logits, PathInputs(inputs.images, {**inputs.laterals, **handed_up})


class _Batch:
  """Collects the results of a batch, as its inputs leave one after the other."""

  def __init__(self, start: int, size: int):
    """Expects the inputs of the numbers from `start` to `start + size`."""
    self._start, self._size = start, size
    self.remaining = size
    self._exits = np.zeros(size, np.int64)
    self._probabilities: np.ndarray | None = None

  def settle(self, ids: np.ndarray, index: int, probabilities: np.ndarray) -> None:
    """Stores what inputs that left at path `index` predict; those of other batches are ignored."""
    mine = (ids >= self._start) & (ids < self._start + self._size)
    if not mine.any():
      return
    if self._probabilities is None:
      self._probabilities = np.empty((self._size, probabilities.shape[-1]))
    self._probabilities[ids[mine] - self._start] = probabilities[mine]
    self._exits[ids[mine] - self._start] = index
    self.remaining -= int(mine.sum())

  def result(self, point: OperatingPoint) -> Result:
    """Returns the result, once no input remains."""
    assert self._probabilities is not None
    return result_of(point, self._exits, self._probabilities)


class _Running(NamedTuple):
  """Holds a path that was started.

  Attributes:
    path: its index.
    logits: [batch, classes], on the device, perhaps not computed yet.
    inputs: the batch it runs on, with its own laterals added.
    ids: numbers of the inputs, which are the first of the batch; the others are padding.
    probabilities: probabilities of the inputs at each path below.
  """

  path: int
  logits: jax.Array
  inputs: PathInputs
  ids: np.ndarray
  probabilities: list[np.ndarray]


class Engine:
  """Runs one stream of batches through the paths.

  Inputs are numbered as they come, from 0, so that each finds its batch again when it leaves.
  """

  def __init__(self, paths: Paths, point: OperatingPoint, path_batch_size: int):
    """Starts without inputs.

    Args:
      paths: the paths of the network.
      point: thresholds, and what exits predict.
      path_batch_size: inputs that a path runs at once, at most; a power of two.
    """
    self._paths, self._point, self._path_batch_size = paths, point, path_batch_size
    # Inputs that wait for the first path stay on the host.
    self._images: list[np.ndarray] = []
    self._pools: list[Pool] = []
    self._batches: collections.deque[_Batch] = collections.deque()
    self._fed = 0
    self._shape: tuple[int, ...] | None = None

  @property
  def delay(self) -> int:
    """Returns the number of batches whose results are not complete."""
    return len(self._batches)

  def feed(self, images: np.ndarray) -> None:
    """Takes in a batch, and runs every path whose batch is full.

    Raises:
      ValueError: for images of another shape than the first ones.
    """
    if self._shape not in (None, images.shape[1:]):
      raise ValueError(
        f'images of shape {list(images.shape[1:])} after {list(self._shape or ())}: those of a '
        'stream are of one shape.'
      )
    if self._shape is None:
      self._shape = images.shape[1:]
      self._pools = self._paths.borrow((self._shape, self._path_batch_size), self._path_batch_size)
    self._batches.append(_Batch(self._fed, len(images)))
    self._fed += len(images)
    size = self._path_batch_size
    if sum(map(len, self._images)) + len(images) < size:
      self._images.append(images.copy())
      return
    waiting = np.concatenate([*self._images, images]) if self._images else images
    whole = len(waiting) // size * size
    first = self._fed - len(waiting)
    # The next piece is started before the results of this one are read, to keep the device busy.
    running = self._start_images(waiting[:size], first)
    for start in range(size, whole, size):
      following = self._start_images(waiting[start : start + size], first + start)
      self._finish(running)
      running = following
    self._finish(running)
    # A copy, as the caller may write into its buffer.
    self._images = [waiting[whole:].copy()] if whole < len(waiting) else []

  def flush(self) -> None:
    """Runs everything that waits, from the lowest path up."""
    if self._images:
      waiting = np.concatenate(self._images)
      self._images = []
      self._finish(self._start_images(waiting, self._fed - len(waiting)))
    for index in range(1, len(self._pools)):
      if self._pools[index].count:
        self._run_pool(index)

  def close(self) -> None:
    """Gives the pools back, after a `flush`."""
    if self._pools:
      self._paths.give_back((self._shape, self._path_batch_size), self._pools)
      self._pools = []

  def finished(self) -> Iterator[Result]:
    """Yields the results of the oldest batches, up to the first that is not complete."""
    while self._batches and not self._batches[0].remaining:
      yield self._batches.popleft().result(self._point)

  def _start_images(self, images: np.ndarray, first: int) -> _Running:
    """Starts the first path on images from the host, of the numbers from `first` on."""
    ids = np.arange(first, first + len(images))
    size = path_programs.path_size(len(images))
    padded = np.zeros((size, *images.shape[1:]), images.dtype)
    padded[: len(images)] = images
    return self._start(0, PathInputs(jax.device_put(padded), {}), ids, [])

  def _run_pool(self, index: int) -> None:
    self._finish(self._start(index, *self._pools[index].take()))

  def _start(
    self, path: int, inputs: PathInputs, ids: np.ndarray, probabilities: list[np.ndarray]
  ) -> _Running:
    """Starts a path on the first `len(ids)` inputs, and returns before it has finished."""
    size = path_programs.path_size(len(ids))
    logits, inputs = self._paths.run(path, inputs, size, len(ids))
    return _Running(path, logits, inputs, ids, probabilities)

  def _finish(self, running: _Running) -> None:
    """Waits for a path, stores what leaves there and moves the rest to the next pool."""
    path, logits, inputs, ids, below = running
    here = self._point.probabilities(path, np.asarray(logits)[: len(ids)])
    probabilities = [*below, here]
    leaves = self._point.leaving(path, here.max(axis=-1))
    if leaves.any():
      predicted = self._point.combined([each[leaves] for each in probabilities])
      for batch in self._batches:
        batch.settle(ids[leaves], path, predicted)
    chosen = np.flatnonzero(~leaves)
    while len(chosen):
      pool = self._pools[path + 1]
      chosen = chosen[pool.add(inputs, chosen, ids, probabilities) :]
      if pool.count == self._path_batch_size:
        self._run_pool(path + 1)


def result_of(point: OperatingPoint, exits: np.ndarray, probabilities: np.ndarray) -> Result:
  """Returns the result of inputs that left at the precisions of these indices.

  Args:
    point: the operating point.
    exits: int64 [batch].
    probabilities: float64 [batch, classes].
  """
  precisions, bitops = np.array(point.bits)[exits], np.array(point.bitops)
  return Result(probabilities.argmax(axis=-1), probabilities, precisions, bitops[exits] / bitops[0])
