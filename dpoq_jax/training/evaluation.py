"""Evaluates every precision on the frozen integers, so that what is reported is what ships."""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import functools
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import scipy.special

from dpoq_jax.data import examples
from dpoq_jax.data.order import shard
from dpoq_jax.network.trainable import Laterals, PathOutput, TrainableNetwork, Variables
from dpoq_jax.runtime import compiler


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Holds the logits of a set of examples at every precision, and their labels.

  Attributes:
    precisions: bits of each precision, from the lowest of the network up.
    logits: logits, float32 [precisions, examples, classes].
    labels: right classes, int32 [examples].
    indices: places of the examples in the set that was evaluated, increasing, int64 [examples];
      only corrupt records are left out.
  """

  precisions: tuple[int, ...]
  logits: np.ndarray
  labels: np.ndarray
  indices: np.ndarray

  def top1(self) -> dict[int, float]:
    """Returns the top-1 accuracy of each precision alone, in [0, 1]."""
    return self._accuracies(self.logits)

  def ensemble_top1(self) -> dict[int, float]:
    """Returns the top-1 accuracy of each precision's ensemble, in [0, 1].

    The ensemble of a precision is the mean softmax of it and of all below it.
    """
    probabilities = scipy.special.softmax(self.logits, axis=-1)
    return self._accuracies(np.cumsum(probabilities, axis=0))

  def loss(self) -> dict[int, float]:
    """Returns the mean cross-entropy of each precision, in nats."""
    log_probabilities = scipy.special.log_softmax(self.logits, axis=-1)
    right = log_probabilities[:, np.arange(len(self.labels)), self.labels]
    return by_precision(self.precisions, -right.mean(axis=1))

  def _accuracies(self, scores: np.ndarray) -> dict[int, float]:
    correct = np.argmax(scores, axis=-1) == self.labels
    return by_precision(self.precisions, correct.mean(axis=1))


def by_precision(precisions: Sequence[int], values: np.ndarray) -> dict[int, float]:
  """Returns `{bits: value}`, given one number for each precision."""
  return dict(zip(precisions, map(float, values), strict=True))


class Evaluator:
  """Runs a frozen network on sets of images, path by path.

  Each path is a program of its own, as in deployment, so that its logits cannot depend on which
  higher paths run after it. The programs are compiled when they are first used, and kept.

  Of several processes, each runs a share of the images on its own devices and gets all results.
  """

  def __init__(self, network: TrainableNetwork, mesh: jax.sharding.Mesh) -> None:
    """Takes the network and a mesh of this process's devices."""
    self._network, self._devices = network, mesh.size
    self._replicated = NamedSharding(mesh, PartitionSpec())
    self._batch_sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
    self._freeze = jax.jit(network.freeze)
    options = compiler.options(mesh.devices.flat[0].platform)
    self._paths: list[Callable[..., PathOutput]] = [
      jax.jit(functools.partial(_run_path, network, index), compiler_options=options)
      for index in range(len(network.bits))
    ]

  def __call__(
    self,
    variables: Variables,
    image_set: examples.ExampleSet,
    batch_size: int,
    highest: int | None = None,
    between_batches: Callable[[], None] = lambda: None,
  ) -> Evaluation:
    """Evaluates the network on a set of images, which are run in order.

    Args:
      variables: variables of the network, trained or frozen; trained ones are frozen first.
      image_set: images and labels.
      batch_size: images per batch over all devices, rounded up to a multiple of their number; the
        last batch is padded.
      highest: bits of the last precision to run; None runs all.
      between_batches: function that is called after each batch; what it raises ends the evaluation.
        Of several processes none calls it, since the others would wait for one that it ends.

    Raises:
      ValueError: if the network does not have the precision `highest`, or there are fewer images
        than processes.
    """
    processes = jax.process_count()
    if processes == 1:
      return self._run(variables, image_set, batch_size, highest, between_batches)
    # Copied, since arrays on the devices of all processes can only be used by all of them at once.
    own = jax.device_put(jax.device_get(variables), self._replicated)
    if len(image_set) < processes:
      raise ValueError(f'{len(image_set)} images cannot be shared by {processes} processes.')
    share = np.array(shard(len(image_set), jax.process_index(), processes))
    size = -(-len(image_set) // processes)
    found = self._run(
      own, image_set.take(share), -(-batch_size // processes), highest, lambda: None
    )
    return _of_all_processes(dataclasses.replace(found, indices=share[found.indices]), size)

  def _run(
    self,
    variables: Variables,
    image_set: examples.ExampleSet,
    batch_size: int,
    highest: int | None,
    between_batches: Callable[[], None],
  ) -> Evaluation:
    """Evaluates the network on images of this process; see `__call__`."""
    bits = self._network.bits
    if highest is not None and highest not in bits:
      raise ValueError(f'precision {highest}: this network has {bits}.')
    precisions = bits[: bits.index(highest or bits[-1]) + 1]
    frozen = variables if 'onion' in variables else self._freeze(variables)
    batch_size = -(-batch_size // self._devices) * self._devices
    logits: list[list[np.ndarray]] = []
    labels, masks = [], []
    # Closed also when an exception ends the loop, as worker processes may be decoding the images.
    with contextlib.closing(image_set.evaluation_batches(batch_size)) as batches:
      for batch in batches:
        images = jax.device_put(batch['image'], self._batch_sharding)
        laterals: dict[str, Any] = {}
        outputs = []
        for index in range(len(precisions)):
          output = self._paths[index](frozen, images, laterals)
          laterals |= output.laterals
          outputs.append(output.logits)
        # Padding is dropped here, so that everything later holds examples alone.
        logits.append([np.asarray(x)[batch['mask']] for x in outputs])
        labels.append(batch['label'][batch['mask']])
        masks.append(batch['mask'])
        between_batches()
    stacked = np.stack([np.concatenate(path) for path in zip(*logits, strict=True)])
    indices = np.flatnonzero(np.concatenate(masks))
    return Evaluation(precisions, stacked, np.concatenate(labels), indices)


def _of_all_processes(own: Evaluation, size: int) -> Evaluation:
  """Joins the evaluations of all processes, each of at most `size` images."""
  count = len(own.labels)

  def together(array: np.ndarray, axis: int) -> np.ndarray:
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, size - count)
    shares = multihost_utils.process_allgather(np.pad(array, widths))
    kept = [np.take(share, range(n), axis) for share, n in zip(shares, counts, strict=True)]
    return np.concatenate(kept, axis)

  counts = multihost_utils.process_allgather(np.int32(count))
  # Gathered as int32, since JAX has no int64 unless it is asked for.
  indices = together(own.indices.astype(np.int32), 0).astype(np.int64)
  return Evaluation(own.precisions, together(own.logits, 1), together(own.labels, 0), indices)


def _run_path(
  network: TrainableNetwork,
  index: int,
  frozen: Variables,
  images: jax.Array,
  laterals: Laterals,
) -> PathOutput:
  return network.run_path(frozen, index, images, laterals)
