"""Early exit as a program: every input runs the paths up to its exit, no more.

Undecided inputs wait, with their laterals, in one pool per path, and a path runs whenever its pool
is full: compaction within a batch and pooling over batches are one mechanism. Programs have a few
sizes, the powers of two up to `rows`, so there is a bounded number of them, however many inputs
are undecided; memory on the device is bounded by the pools, not by the batch. A cascade keeps their
room for its next call.
"""

import collections
from collections.abc import Iterable, Iterator, Mapping
import dataclasses
from typing import Any

import jax
import numpy as np

from dpoq_jax.inference import programs
from dpoq_jax.inference.operating_point import OperatingPoint
from dpoq_jax.inference.pools import Pool

# Measured with ResNet-8: two CPU cores need least time per image at 32, as a path then fits their
# cache; accelerators want to be filled.
_ROWS = {'cpu': 32}
_ROWS_OF_ACCELERATORS = 512


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
    rows: the same with the padding of programs.
  """

  inputs: list[int]
  rows: list[int]


class Cascade:
  """Dynamic inference with a frozen network.

      cascade = Cascade(network, frozen, operating_point)
      result = cascade(images)

  Programs are compiled on first use and kept, for all cascades of a network; neither another
  operating point nor a cap on the precision compiles anything.

  Attributes:
    operating_point: may be replaced between calls by another one of the same bit list.
    counts: see `Counts`.
  """

  def __init__(
    self,
    network: programs.Network,
    variables: Mapping[str, Any],
    operating_point: OperatingPoint,
    *,
    rows: int | None = None,
  ):
    """Puts the variables on the device.

    Args:
      network: the network.
      variables: frozen.
      operating_point: thresholds and what exits predict.
      rows: inputs that a path runs at once, a power of two; by default what suits the device.

    Raises:
      ValueError: if the variables are not frozen, the operating point is of another bit list, or
        `rows` is no power of two.
    """
    if 'onion' not in variables:
      raise ValueError('these variables hold latents: freeze them first (Onion.freeze).')
    if rows is not None and (rows < 1 or rows != programs.bucket(rows)):
      raise ValueError(f'rows={rows}: give a power of two.')
    self._rows = rows or _ROWS.get(jax.default_backend(), _ROWS_OF_ACCELERATORS)
    self._network = network
    self._check(operating_point)
    self.operating_point = operating_point
    stages = range(len(network.bits))
    self._variables = [
      jax.device_put(network.variables_of_path(variables, index)) for index in stages
    ]
    # Pools of finished calls, by what fits in them: taking fresh memory for each costs more than
    # filling it.
    self._spare: dict[Any, list[list[Pool]]] = {}
    self.counts = Counts([0] * len(stages), [0] * len(stages))

  @property
  def rows(self) -> int:
    """Inputs that a path runs at once, at most."""
    return self._rows

  def __call__(
    self,
    images: np.ndarray,
    *,
    operating_point: OperatingPoint | None = None,
    max_precision: int | None = None,
  ) -> Result:
    """Runs a batch, of any size; a batch of one in a single program, for the lowest latency.

    Args:
      images: uint8 [batch, height, width, channels].
      operating_point: another than the cascade's own, for this call.
      max_precision: bits of the last precision to run, if it is to be cut short.

    Raises:
      ValueError: for anything but such images, or an operating point or precision that the network
        does not have.
    """
    point, images = self._point(operating_point, max_precision), _checked(images)
    if len(images) == 1 and (result := self._single(images, point)):
      return result
    # Room for no more than there is.
    engine = _Engine(self, point, min(self._rows, programs.bucket(len(images))))
    engine.feed(images)
    engine.flush()
    engine.close()
    (result,) = engine.finished()
    return result

  def stream(
    self,
    batches: Iterable[np.ndarray],
    *,
    operating_point: OperatingPoint | None = None,
    max_precision: int | None = None,
    max_delay: int = 64,
  ) -> Iterator[Result]:
    """Runs batches as they come, pooling undecided inputs over them so that paths run full.

    Args:
      batches: of images as in `__call__`; their numbers may differ, their shape may not. What
        waits is copied, so a buffer may be used again.
      operating_point: as in `__call__`, for the whole stream.
      max_precision: as in `__call__`, for the whole stream.
      max_delay: batches that a result may be late by. Where an input waits for company longer, what
        waits is run: a bound on latency and on results kept.

    Returns:
      An iterator over a result per batch, in order, each once its last input has left: which may be
      several batches later, at the latest when they end.
    """
    if max_delay < 0:
      raise ValueError(f'max_delay={max_delay}: give a number of batches, 0 or more.')
    engine = _Engine(self, self._point(operating_point, max_precision), self._rows)
    return _stream(engine, batches, max_delay)

  def borrow(self, key: Any, capacity: int) -> list[Pool]:
    """A pool for each path; `key` says what they hold."""
    # Threads may call one cascade: popping is atomic, asking first is not.
    try:
      return self._spare.setdefault(key, []).pop()
    except IndexError:
      return [Pool(capacity) for _ in self._variables]

  def give_back(self, key: Any, pools: list[Pool]) -> None:
    """Keeps empty pools for the next call."""
    self._spare[key].append(pools)

  def run_path(
    self, index: int, rows: programs.Rows, size: int
  ) -> tuple[np.ndarray, programs.Rows]:
    """Logits of the first `size` rows, and those rows with the laterals of this path too."""
    if len(rows.images) > size:
      rows = programs.first_rows(rows, size)
    logits, handed_up = programs.run_path(self._network, index, self._variables[index], rows)
    return np.asarray(logits), programs.Rows(rows.images, {**rows.laterals, **handed_up})

  def _single(self, image: np.ndarray, point: OperatingPoint) -> Result | None:
    """Runs one input [1, height, width, channels] in one program that ends where it leaves.

    The program decides in float32 and goes on when in doubt; what counts is decided here. None if
    the program stopped before the exit, which rounding does not explain.
    """
    limits = [(point.thresholds[b], point.temperatures[b]) for b in point.bits[:-1]]
    logits, reached = map(
      np.asarray,
      programs.run_single(
        self._network, self._variables, image, np.array(limits, np.float32).reshape(-1, 2)
      ),
    )
    run: list[np.ndarray] = []
    for index in range(int(reached) + 1):
      run.append(point.probabilities(index, logits[index]))
      if point.leaving(index, run[-1].max(axis=-1))[0]:
        for k in range(int(reached) + 1):
          self.counts.inputs[k] += 1
          self.counts.rows[k] += 1
        return _result(point.bits, np.array([index]), point.combined(run))
    return None

  def _point(self, point: OperatingPoint | None, max_precision: int | None) -> OperatingPoint:
    """The operating point of a call."""
    point = self._check(self.operating_point if point is None else point)
    return point if max_precision is None else point.capped(max_precision)

  def _check(self, point: OperatingPoint) -> OperatingPoint:
    if point.bits != tuple(self._network.bits):
      raise ValueError(
        f'the operating point is for bits={point.bits}, the network has {self._network.bits}.'
      )
    return point


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
    return _result(bits, self.exits, self.probabilities)


class _Engine:
  """One stream: the pools, and the batches whose inputs are in them."""

  def __init__(self, cascade: Cascade, point: OperatingPoint, rows: int):
    self._cascade, self._point, self._rows = cascade, point, rows
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
      self._pools = self._cascade.borrow((self._shape, self._rows), self._rows)
    self._batches.append(_Batch(self._fed, len(images)))
    self._fed += len(images)
    rows = self._rows
    if sum(map(len, self._images)) + len(images) < rows:
      self._images.append(images.copy())
    else:
      waiting = np.concatenate([*self._images, images]) if self._images else images
      whole = len(waiting) // rows * rows
      for start in range(0, whole, rows):
        self._first(waiting[start : start + rows], self._fed - len(waiting) + start)
      # A copy: the caller may use the buffer again.
      self._images = [waiting[whole:].copy()] if whole < len(waiting) else []

  def flush(self) -> None:
    """Runs what waits, from the lowest path up."""
    if self._images:
      waiting = np.concatenate(self._images)
      self._images = []
      self._first(waiting, self._fed - len(waiting))
    for index in range(1, len(self._pools)):
      if self._pools[index].count:
        self._run_pool(index)

  def close(self) -> None:
    """Gives the pools back; nothing may wait."""
    if self._pools:
      self._cascade.give_back((self._shape, self._rows), self._pools)
      self._pools = []

  def finished(self) -> Iterator[Result]:
    """Results of the batches at the front whose inputs have all left."""
    while self._batches and not self._batches[0].waiting:
      yield self._batches.popleft().result(self._point.bits)

  def _first(self, images: np.ndarray, start: int) -> None:
    ids = np.arange(start, start + len(images))
    size = programs.bucket(len(images))
    padded = np.zeros((size, *images.shape[1:]), images.dtype)
    padded[: len(images)] = images
    self._run(0, programs.Rows(jax.device_put(padded), {}), size, ids, [])

  def _run_pool(self, index: int) -> None:
    pool = self._pools[index]
    assert pool.rows is not None
    rows, ids, count = pool.rows, np.concatenate(pool.ids), pool.count
    run = [np.concatenate(each) for each in zip(*pool.run, strict=True)]
    pool.clear()
    self._run(index, rows, programs.bucket(count), ids, run)

  def _run(
    self, index: int, rows: programs.Rows, size: int, ids: np.ndarray, run: list[np.ndarray]
  ) -> None:
    """Runs a path on the first `len(ids)` rows; who does not leave waits for the next path."""
    counts = self._cascade.counts
    counts.inputs[index] += len(ids)
    counts.rows[index] += size
    logits, rows = self._cascade.run_path(index, rows, size)
    run = [*run, self._point.probabilities(index, logits[: len(ids)])]
    leaves = self._point.leaving(index, run[-1].max(axis=-1))
    self._settle(ids[leaves], index, [each[leaves] for each in run])
    chosen = np.flatnonzero(~leaves)
    while len(chosen):
      pool = self._pools[index + 1]
      chosen = chosen[pool.add(rows, chosen, ids, run) :]
      if pool.count == self._rows:
        self._run_pool(index + 1)

  def _settle(self, ids: np.ndarray, index: int, run: list[np.ndarray]) -> None:
    if len(ids):
      probabilities = self._point.combined(run)
      for batch in self._batches:
        batch.settle(ids, index, probabilities)


def _stream(engine: _Engine, batches: Iterable[np.ndarray], max_delay: int) -> Iterator[Result]:
  for images in batches:
    engine.feed(_checked(images))
    yield from engine.finished()
    if engine.delay > max_delay:
      engine.flush()
      yield from engine.finished()
  engine.flush()
  engine.close()
  yield from engine.finished()


def _checked(images: Any) -> np.ndarray:
  images = np.asarray(images)
  if images.ndim != 4 or images.dtype != np.uint8 or not len(images):
    raise ValueError(
      f'images are {images.dtype}{list(images.shape)}: give uint8 [batch, height, width, '
      'channels], at least one.'
    )
  return images


def _result(bits: tuple[int, ...], exits: np.ndarray, probabilities: np.ndarray) -> Result:
  precisions = np.array(bits)[exits]
  return Result(probabilities.argmax(axis=-1), probabilities, precisions, precisions / bits[0])
