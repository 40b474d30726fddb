"""Early exit as a program: every input runs the paths up to its exit, no more.

How batches get through the paths is `engine`'s business; a single input is one program.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from dpoq_jax.inference import path_programs
from dpoq_jax.inference.engine import Counts, Engine, Paths, Result, result_of
from dpoq_jax.inference.operating_point import OperatingPoint

# Measured with ResNet-8: two CPU cores need least time per image at 32, as a path then fits their
# cache; accelerators want to be filled.
_PATH_BATCH_SIZE = {'cpu': 32}
_PATH_BATCH_SIZE_OF_ACCELERATORS = 512


class Cascade:
  """Dynamic inference with a frozen network.

      cascade = Cascade(network, frozen, operating_point)
      result = cascade(images)

  Programs are compiled on first use and kept, for all cascades of a network; neither another
  operating point nor a cap on the precision compiles anything.

  Attributes:
    operating_point: may be replaced between calls by another one of the same bit list.
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
      variables: frozen.
      operating_point: thresholds and what exits predict.
      path_batch_size: inputs that a path runs at once, a power of two; by default what suits the
        device.

    Raises:
      ValueError: if the variables are not frozen, the operating point is of another bit list, or
        `path_batch_size` is no power of two.
    """
    if 'onion' not in variables:
      raise ValueError('these variables hold latents: freeze them first (Onion.freeze).')
    if path_batch_size is not None and (
      path_batch_size < 1 or path_batch_size != path_programs.bucket(path_batch_size)
    ):
      raise ValueError(f'path_batch_size={path_batch_size}: give a power of two.')
    self._path_batch_size = path_batch_size or _PATH_BATCH_SIZE.get(
      jax.default_backend(), _PATH_BATCH_SIZE_OF_ACCELERATORS
    )
    self._paths = Paths(network, variables)
    self.operating_point = self._check(operating_point)

  @property
  def counts(self) -> Counts:
    """What this cascade has done so far."""
    return self._paths.counts

  @property
  def path_batch_size(self) -> int:
    """Inputs that a path runs at once, at most."""
    return self._path_batch_size

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
    engine = Engine(
      self._paths, point, min(self._path_batch_size, path_programs.bucket(len(images)))
    )
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
    engine = Engine(self._paths, self._point(operating_point, max_precision), self._path_batch_size)
    return _stream(engine, batches, max_delay)

  def _single(self, image: np.ndarray, point: OperatingPoint) -> Result | None:
    """Runs one input [1, height, width, channels] in one program that ends where it leaves.

    The program decides in float32 and goes on when in doubt; what counts is decided here. None if
    the program stopped before the exit, which rounding does not explain.
    """
    limits = [(point.thresholds[b], point.temperatures[b]) for b in point.bits[:-1]]
    logits, reached = map(
      np.asarray,
      path_programs.run_single(
        self._paths.network,
        self._paths.variables,
        image,
        np.array(limits, np.float32).reshape(-1, 2),
      ),
    )
    run: list[np.ndarray] = []
    for index in range(int(reached) + 1):
      run.append(point.probabilities(index, logits[index]))
      if point.leaving(index, run[-1].max(axis=-1))[0]:
        for k in range(int(reached) + 1):
          self.counts.inputs[k] += 1
          self.counts.padded[k] += 1
        return result_of(point.bits, np.array([index]), point.combined(run))
    return None

  def _point(self, point: OperatingPoint | None, max_precision: int | None) -> OperatingPoint:
    """The operating point of a call."""
    point = self._check(self.operating_point if point is None else point)
    return point if max_precision is None else point.capped(max_precision)

  def _check(self, point: OperatingPoint) -> OperatingPoint:
    if point.bits != tuple(self._paths.network.bits):
      raise ValueError(
        f'the operating point is for bits={point.bits}, the network has {self._paths.network.bits}.'
      )
    return point


def _stream(engine: Engine, batches: Iterable[np.ndarray], max_delay: int) -> Iterator[Result]:
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
