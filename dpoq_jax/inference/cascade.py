"""Runs a network so that every input goes through the paths up to its exit, and no further.

In which batches inputs go through the paths is decided in `pools`. A small batch is run by one
program of its own.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from dpoq_jax.inference import path_programs, small_batch
from dpoq_jax.inference.operating_point import OperatingPoint
from dpoq_jax.inference.pools import Counts, Engine, Paths, Result, result_of

# Measured with ResNet-8: two CPU cores take the least time per image at 32, where a path still fits
# their cache. An accelerator is busy only with many.
_PATH_BATCH_SIZE = {'cpu': 32}
_PATH_BATCH_SIZE_OF_ACCELERATORS = 512
# Larger batches are pooled. Not tried on accelerators, where a conditional waits for the host.
_SMALL_BATCH = {'cpu': 16}
_SMALL_BATCH_OF_ACCELERATORS = 1


class Cascade:
  """Runs dynamic inference with a frozen network.

      cascade = Cascade(network, frozen, operating_point)
      result = cascade(images)
      result.labels, result.precisions

  Programs are compiled at their first use and kept for all cascades of a network. Neither another
  operating point nor a cap on the precision compiles anything.

  Attributes:
    operating_point: thresholds, and what exits predict; may be replaced between calls by another
      one of the same bit list.
  """

  def __init__(
    self,
    network: path_programs.Network,
    variables: Mapping[str, Any],
    operating_point: OperatingPoint,
    *,
    path_batch_size: int | None = None,
  ):
    """Puts the variables on the device.

    Args:
      network: the network.
      variables: its variables, frozen.
      operating_point: thresholds, and what exits predict.
      path_batch_size: inputs that a path runs at once, a power of two; by default what suits the
        device.

    Raises:
      ValueError: if the variables are not frozen, the operating point is of another bit list, or
        `path_batch_size` is no power of two.
    """
    if 'onion' not in variables:
      raise ValueError('these variables hold latents: freeze them first (Onion.freeze).')
    if path_batch_size is None:
      path_batch_size = _PATH_BATCH_SIZE.get(
        jax.default_backend(), _PATH_BATCH_SIZE_OF_ACCELERATORS
      )
    if path_batch_size < 1 or path_batch_size != path_programs.bucket(path_batch_size):
      raise ValueError(f'path_batch_size={path_batch_size}: give a power of two.')
    self._path_batch_size = path_batch_size
    self._paths = Paths(network, variables)
    self.operating_point = self._check(operating_point)

  @property
  def counts(self) -> Counts:
    """Returns what this cascade has run so far."""
    return self._paths.counts

  @property
  def path_batch_size(self) -> int:
    """Returns the number of inputs that a path runs at once, at most."""
    return self._path_batch_size

  def __call__(
    self,
    images: np.ndarray,
    *,
    operating_point: OperatingPoint | None = None,
    max_precision: int | None = None,
  ) -> Result:
    """Runs a batch of any size; a small one in a single program, for the lowest latency.

    Args:
      images: uint8 [batch, height, width, channels].
      operating_point: replaces the cascade's own for this call.
      max_precision: bits of the last precision to run, where inputs are to be cut short.

    Raises:
      ValueError: for anything but such images, or an operating point or precision that the network
        does not have.
    """
    point, images = self._point(operating_point, max_precision), _checked(images)
    # A smaller batch needs no larger pools.
    size = min(self._path_batch_size, path_programs.bucket(len(images)))
    small = _SMALL_BATCH.get(jax.default_backend(), _SMALL_BATCH_OF_ACCELERATORS)
    if len(images) <= min(size, small) and (result := self._run_small(images, point)):
      return result
    engine = Engine(self._paths, point, size)
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
    """Runs batches as they come, and pools what remains of them so that paths run full batches.

    Args:
      batches: images as in `__call__`; their number may differ, their shape may not. What has to
        wait is copied, so that a buffer may be used again.
      operating_point: as in `__call__`, for the whole stream.
      max_precision: as in `__call__`, for the whole stream.
      max_delay: number of batches that a result may come late. When it is exceeded, everything that
        waits is run: this bounds the latency and the number of results kept.

    Returns:
      An iterator over one result per batch, in order, each as soon as the last input of its batch
      has left.

    Raises:
      ValueError: for a bad argument, at the call; for bad images, when they come.
    """
    if max_delay < 0:
      raise ValueError(f'max_delay={max_delay}: give a number of batches, 0 or more.')
    point = self._point(operating_point, max_precision)
    return _stream(Engine(self._paths, point, self._path_batch_size), batches, max_delay)

  def _run_small(self, images: np.ndarray, point: OperatingPoint) -> Result | None:
    """Runs a small batch in one program that ends at its last exit.

    The program compares in float32 and runs another path when in doubt; exits are decided here, in
    float64. Returns None if the program stopped below an exit, which rounding does not explain.
    """
    limits = [(point.thresholds[b], point.temperatures[b]) for b in point.bits[:-1]]
    count, size = len(images), path_programs.bucket(len(images))
    padded = np.zeros((size, *images.shape[1:]), images.dtype)
    padded[:count] = images
    found, last_run = small_batch.run_small_batch(
      self._paths.network,
      self._paths.variables,
      padded,
      np.int32(count),
      np.array(limits, np.float32).reshape(-1, 2),
    )
    logits, reached = np.asarray(found)[:, :count], np.asarray(last_run)[:count]
    exits, remain = np.zeros(count, np.int64), np.arange(count)
    predicted, run = np.empty(logits.shape[1:]), list[np.ndarray]()
    for index in range(len(point.bits)):
      if not len(remain):
        break
      if (reached[remain] < index).any():
        return None
      run.append(point.probabilities(index, logits[index]))
      leaves = point.leaving(index, run[-1][remain].max(axis=-1))
      leaving, remain = remain[leaves], remain[~leaves]
      exits[leaving] = index
      predicted[leaving] = point.combined([each[leaving] for each in run])
    for index in range(len(point.bits)):
      self.counts.inputs[index] += int(np.count_nonzero(exits >= index))
      self.counts.padded[index] += small_batch.padded(size, int((reached >= index).sum()))
    return result_of(point, exits, predicted)

  def _point(self, point: OperatingPoint | None, max_precision: int | None) -> OperatingPoint:
    """Returns the operating point of a call."""
    point = self._check(self.operating_point if point is None else point)
    return point if max_precision is None else point.capped(max_precision)

  def _check(self, point: OperatingPoint) -> OperatingPoint:
    """Returns an operating point, after checking that it is of the network's bit list."""
    if point.bits != tuple(self._paths.network.bits):
      raise ValueError(
        f'the operating point is for bits={point.bits}, the network has {self._paths.network.bits}.'
      )
    return point


def _stream(engine: Engine, batches: Iterable[np.ndarray], max_delay: int) -> Iterator[Result]:
  """Yields the result of every batch, in order."""
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
  """Returns images as an array, after checking its type and shape."""
  images = np.asarray(images)
  if images.ndim != 4 or images.dtype != np.uint8 or not len(images):
    raise ValueError(
      f'images are {images.dtype}{list(images.shape)}: give uint8 [batch, height, width, '
      'channels], at least one.'
    )
  return images
