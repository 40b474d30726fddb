"""Batches under way: which inputs run which path when, and where those that wait for one are.

Undecided inputs wait, with their laterals, in one pool per path, and a path runs whenever its pool
is full: compaction within a batch and pooling over batches are one mechanism. Programs have a few
sizes, the powers of two up to `path_batch_size`, so there is a bounded number of them, however many
inputs are undecided; memory on the device is bounded by the pools, not by the batch.
"""

import collections
from collections.abc import Iterator, Mapping
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpoq_jax.inference import path_programs
from dpoq_jax.inference.operating_point import OperatingPoint


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
  """What a cascade says of a batch.

  Attributes:
    labels: int64 [batch], the most probable class.
    probabilities: float64 [batch, classes], of the operating point's combination.
    precisions: int64 [batch], bits of the precision each input left at.
    cost: float64 [batch], BitOPs relative to the lowest precision.
  """

  labels: np.ndarray
  probabilities: np.ndarray
  precisions: np.ndarray
  cost: np.ndarray


@dataclasses.dataclass
class Counts:
  """What a cascade has done so far, for measurements.

  Attributes:
    inputs: run on each path.
    padded: the same with the padding of programs.
  """

  inputs: list[int]
  padded: list[int]


class Pool:
  """Inputs that wait for a path, with what the paths below computed of them."""

  def __init__(self, capacity: int):
    self._capacity = capacity
    self.inputs: path_programs.PathInputs | None = None
    self.clear()

  def clear(self) -> None:
    """Forgets the inputs; their room on the device is kept."""
    self.count, self.ids, self.run = 0, [], []

  def add(
    self,
    inputs: path_programs.PathInputs,
    chosen: np.ndarray,
    ids: np.ndarray,
    run: list[np.ndarray],
  ) -> int:
    """Copies as many of the `chosen` inputs as there is room for, in order; returns how many."""
    taken = min(len(chosen), self._capacity - self.count)
    if self.inputs is None:
      self.inputs = jax.tree.map(
        lambda leaf: jnp.zeros((self._capacity, *leaf.shape[1:]), leaf.dtype), inputs
      )
    indices = np.zeros(len(inputs.images), np.int32)
    indices[:taken] = chosen[:taken]
    self.inputs = path_programs.copy_inputs(
      self.inputs, inputs, indices, np.int32(taken), np.int32(self.count)
    )
    self.ids.append(ids[chosen[:taken]])
    self.run.append([each[chosen[:taken]] for each in run])
    self.count += taken
    return taken


class Paths:
  """The paths of a network on a device, and room for what waits for them.

  Attributes:
    network: the network.
    variables: those that each path reads, on the device.
    counts: see `Counts`.
  """

  def __init__(self, network: path_programs.Network, variables: Mapping[str, Any]):
    self.network = network
    stages = range(len(network.bits))
    self.variables = [
      jax.device_put(network.variables_of_path(variables, index)) for index in stages
    ]
    self.counts = Counts([0] * len(stages), [0] * len(stages))
    # Pools of finished calls, by what fits in them: taking fresh memory for each costs more than
    # filling it.
    self._spare: dict[Any, list[list[Pool]]] = {}

  def borrow(self, key: Any, capacity: int) -> list[Pool]:
    """A pool for each path; `key` says what they hold."""
    # Threads may call one cascade: popping is atomic, asking first is not.
    try:
      return self._spare.setdefault(key, []).pop()
    except IndexError:
      return [Pool(capacity) for _ in self.variables]

  def give_back(self, key: Any, pools: list[Pool]) -> None:
    """Keeps empty pools for the next call."""
    self._spare[key].append(pools)

  def run(
    self, index: int, inputs: path_programs.PathInputs, size: int, count: int
  ) -> tuple[jax.Array, path_programs.PathInputs]:
    """Starts a path on the first `size` inputs, of which `count` are inputs.

    Returns:
      Logits, and these inputs with the laterals of this path too; before they are computed.
    """
    self.counts.inputs[index] += count
    self.counts.padded[index] += size
    if len(inputs.images) > size:
      inputs = path_programs.first_inputs(inputs, size)
    logits, handed_up = path_programs.run_path(self.network, index, self.variables[index], inputs)
    return logits, path_programs.PathInputs(inputs.images, {**inputs.laterals, **handed_up})


class _Batch:
  """A batch under way: where its results go."""

  def __init__(self, start: int, size: int):
    self.start, self.size, self.waiting = start, size, size
    self.exits = np.zeros(size, np.int64)
    self.probabilities: np.ndarray | None = None

  def settle(self, ids: np.ndarray, index: int, probabilities: np.ndarray) -> None:
    """Notes the exit of those inputs that are of this batch."""
    mine = (ids >= self.start) & (ids < self.start + self.size)
    if not mine.any():
      return
    if self.probabilities is None:
      self.probabilities = np.empty((self.size, probabilities.shape[-1]))
    self.probabilities[ids[mine] - self.start] = probabilities[mine]
    self.exits[ids[mine] - self.start] = index
    self.waiting -= int(mine.sum())

  def result(self, bits: tuple[int, ...]) -> Result:
    """The result, once nobody waits."""
    assert self.probabilities is not None
    return result_of(bits, self.exits, self.probabilities)


class _Running(NamedTuple):
  """A path under way.

  Attributes:
    index: of the path.
    logits: [inputs, classes], on the device.
    inputs: what it was run on, with its laterals.
    ids: of the inputs in the first of these inputs.
    run: their probabilities at the paths below.
  """

  index: int
  logits: jax.Array
  inputs: path_programs.PathInputs
  ids: np.ndarray
  run: list[np.ndarray]


class Engine:
  """One stream: the pools, and the batches whose inputs are in them."""

  def __init__(self, paths: Paths, point: OperatingPoint, path_batch_size: int):
    """Starts with nothing to do.

    Args:
      paths: of the network.
      point: thresholds and what exits predict.
      path_batch_size: inputs that a path runs at once, at most.
    """
    self._paths, self._point, self._path_batch_size = paths, point, path_batch_size
    # The first path's inputs wait on the host.
    self._images: list[np.ndarray] = []
    self._pools: list[Pool] = []
    self._batches: collections.deque[_Batch] = collections.deque()
    self._fed = 0
    self._shape: tuple[int, ...] | None = None

  @property
  def delay(self) -> int:
    """Batches whose results are not all there yet."""
    return len(self._batches)

  def feed(self, images: np.ndarray) -> None:
    """Takes in a batch and runs what fills a path."""
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
    else:
      waiting = np.concatenate([*self._images, images]) if self._images else images
      whole = len(waiting) // size * size
      first = self._fed - len(waiting)
      # The next piece is on its way before the results of this one are looked at.
      running = self._start_images(waiting[:size], first)
      for start in range(size, whole, size):
        following = self._start_images(waiting[start : start + size], first + start)
        self._finish(running)
        running = following
      self._finish(running)
      # A copy: the caller may use the buffer again.
      self._images = [waiting[whole:].copy()] if whole < len(waiting) else []

  def flush(self) -> None:
    """Runs what waits, from the lowest path up."""
    if self._images:
      waiting = np.concatenate(self._images)
      self._images = []
      self._finish(self._start_images(waiting, self._fed - len(waiting)))
    for index in range(1, len(self._pools)):
      if self._pools[index].count:
        self._run_pool(index)

  def close(self) -> None:
    """Gives the pools back; nothing may wait."""
    if self._pools:
      self._paths.give_back((self._shape, self._path_batch_size), self._pools)
      self._pools = []

  def finished(self) -> Iterator[Result]:
    """Results of the batches at the front whose inputs have all left."""
    while self._batches and not self._batches[0].waiting:
      yield self._batches.popleft().result(self._point.bits)

  def _start_images(self, images: np.ndarray, start: int) -> '_Running':
    """Starts the first path on inputs from the host."""
    ids = np.arange(start, start + len(images))
    size = path_programs.bucket(len(images))
    padded = np.zeros((size, *images.shape[1:]), images.dtype)
    padded[: len(images)] = images
    return self._start(0, path_programs.PathInputs(jax.device_put(padded), {}), size, ids, [])

  def _run_pool(self, index: int) -> None:
    pool = self._pools[index]
    assert pool.inputs is not None
    inputs, ids, count = pool.inputs, np.concatenate(pool.ids), pool.count
    run = [np.concatenate(each) for each in zip(*pool.run, strict=True)]
    pool.clear()
    self._finish(self._start(index, inputs, path_programs.bucket(count), ids, run))

  def _start(
    self,
    index: int,
    inputs: path_programs.PathInputs,
    size: int,
    ids: np.ndarray,
    run: list[np.ndarray],
  ) -> '_Running':
    """Starts a path on the first `len(ids)` inputs; returns before it is done."""
    logits, inputs = self._paths.run(index, inputs, size, len(ids))
    return _Running(index, logits, inputs, ids, run)

  def _finish(self, running: '_Running') -> None:
    """Waits for a path; who does not leave waits for the next one."""
    index, logits, inputs, ids, run = running
    run = [*run, self._point.probabilities(index, np.asarray(logits)[: len(ids)])]
    leaves = self._point.leaving(index, run[-1].max(axis=-1))
    self._settle(ids[leaves], index, [each[leaves] for each in run])
    chosen = np.flatnonzero(~leaves)
    while len(chosen):
      pool = self._pools[index + 1]
      chosen = chosen[pool.add(inputs, chosen, ids, run) :]
      if pool.count == self._path_batch_size:
        self._run_pool(index + 1)

  def _settle(self, ids: np.ndarray, index: int, run: list[np.ndarray]) -> None:
    if len(ids):
      probabilities = self._point.combined(run)
      for batch in self._batches:
        batch.settle(ids, index, probabilities)


def result_of(bits: tuple[int, ...], exits: np.ndarray, probabilities: np.ndarray) -> Result:
  """The result of inputs that left at these exits."""
  precisions = np.array(bits)[exits]
  return Result(probabilities.argmax(axis=-1), probabilities, precisions, precisions / bits[0])
