"""Accuracy of every precision, measured on the frozen integers: what is reported is what ships."""

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
from dpoq_jax.network import onion_network
from dpoq_jax.network.trainable import TrainableNetwork
from dpoq_jax.runtime import compiler


@dataclasses.dataclass(frozen=True)
class Predictions:
  """Logits of all examples at every precision.

  Attributes:
    precisions: bits, from the lowest of the network up.
    logits: float32 [precisions, examples, classes].
    labels: int32 [examples].
    indices: int64 [examples]: of the set that was evaluated; all but corrupt records, in order.
  """

  precisions: tuple[int, ...]
  logits: np.ndarray
  labels: np.ndarray
  indices: np.ndarray

  def top1(self) -> dict[int, float]:
    """Top-1 accuracy of each precision alone, in [0, 1]."""
    return self._accuracies(self.logits)

  def ensemble_top1(self) -> dict[int, float]:
    """Top-1 accuracy of the mean softmax of each precision and all below it, in [0, 1]."""
    probabilities = scipy.special.softmax(self.logits, axis=-1)
    return self._accuracies(np.cumsum(probabilities, axis=0))

  def loss(self) -> dict[int, float]:
    """Mean cross-entropy of each precision, in nats."""
    log_probabilities = scipy.special.log_softmax(self.logits, axis=-1)
    right = log_probabilities[:, np.arange(len(self.labels)), self.labels]
    return by_precision(self.precisions, -right.mean(axis=1))

  def _accuracies(self, scores: np.ndarray) -> dict[int, float]:
    correct = np.argmax(scores, axis=-1) == self.labels
    return by_precision(self.precisions, correct.mean(axis=1))


def by_precision(precisions: Sequence[int], values: np.ndarray) -> dict[int, float]:
  """`{bits: value}` of one number per precision."""
  return dict(zip(precisions, map(float, values), strict=True))


class Evaluator:
  """Runs a frozen network over a set of images, path by path.

  Each path is a program of its own, as in deployment: its logits cannot depend on which higher
  paths run after it. The programs are compiled on first use and kept.

  Of several processes each runs a share of the images on its own devices, and gets all results.
  """

  def __init__(self, network: TrainableNetwork, mesh: jax.sharding.Mesh):
    """Takes a mesh of this process's devices."""
    self._network, self._devices = network, mesh.size
    self._replicated = NamedSharding(mesh, PartitionSpec())
    self._batch_sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
    self._freeze = jax.jit(network.freeze)
    options = compiler.options(mesh.devices.flat[0].platform)
    self._paths: list[Callable[..., onion_network.PathOutput]] = [
      jax.jit(functools.partial(_run_path, network, index), compiler_options=options)
      for index in range(len(network.bits))
    ]

  def __call__(
    self,
    variables: onion_network.Variables,
    image_set: examples.ExampleSet,
    batch_size: int,
    highest: int | None = None,
    between_batches: Callable[[], None] = lambda: None,
  ) -> Predictions:
    """Freezes `variables` if they are not frozen yet and runs every image.

    Args:
      variables: trained or frozen.
      image_set: evaluated in order, whole.
      batch_size: over all devices, rounded up to share it equally; the last batch is padded.
      highest: bits of the last precision to run; all by default.
      between_batches: called after each batch; what it raises ends the evaluation. Not among
        several processes, of which the others would wait.

    Raises:
      ValueError: if the network does not have the precision `highest`, or there are fewer images
        than processes.
    """
    processes = jax.process_count()
    if processes == 1:
      return self._run(variables, image_set, batch_size, highest, between_batches)
    # Arrays of all processes take part in programs of all processes alone.
    own = jax.device_put(jax.device_get(variables), self._replicated)
    if len(image_set) < processes:
      raise ValueError(f'{len(image_set)} images cannot be shared by {processes} processes.')
    share = np.array(examples.shard(len(image_set), jax.process_index(), processes))
    size = -(-len(image_set) // processes)
    predictions = self._run(
      own, image_set.take(share), -(-batch_size // processes), highest, lambda: None
    )
    return _of_all_processes(
      dataclasses.replace(predictions, indices=share[predictions.indices]), size
    )

  def _run(
    self,
    variables: onion_network.Variables,
    image_set: examples.ExampleSet,
    batch_size: int,
    highest: int | None,
    between_batches: Callable[[], None],
  ) -> Predictions:
    """Runs the images in this process."""
    bits = self._network.bits
    if highest is not None and highest not in bits:
      raise ValueError(f'precision {highest}: this network has {bits}.')
    precisions = bits[: bits.index(highest or bits[-1]) + 1]
    frozen = variables if 'onion' in variables else self._freeze(variables)
    batch_size = -(-batch_size // self._devices) * self._devices
    logits: list[list[np.ndarray]] = []
    labels, masks = [], []
    # Closed also if an exception ends it: worker processes may be behind it.
    with contextlib.closing(image_set.evaluation_batches(batch_size)) as batches:
      for batch in batches:
        images = jax.device_put(batch['image'], self._batch_sharding)
        laterals: dict[str, Any] = {}
        outputs = []
        for index in range(len(precisions)):
          output = self._paths[index](frozen, images, laterals)
          laterals |= output.laterals
          outputs.append(output.logits)
        # Padding is dropped here, so that every array downstream is examples alone.
        logits.append([np.asarray(x)[batch['mask']] for x in outputs])
        labels.append(batch['label'][batch['mask']])
        masks.append(batch['mask'])
        between_batches()
    stacked = np.stack([np.concatenate(path) for path in zip(*logits, strict=True)])
    indices = np.flatnonzero(np.concatenate(masks))
    return Predictions(precisions, stacked, np.concatenate(labels), indices)


def _of_all_processes(own: Predictions, size: int) -> Predictions:
  """Puts together what all processes found, each of at most `size` images."""
  count = len(own.labels)

  def together(array: np.ndarray, axis: int) -> np.ndarray:
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, size - count)
    rows = multihost_utils.process_allgather(np.pad(array, widths))
    kept = [np.take(row, range(n), axis) for row, n in zip(rows, counts, strict=True)]
    return np.concatenate(kept, axis)

  counts = multihost_utils.process_allgather(np.int32(count))
  # Gathered as int32, which is what JAX has by default.
  indices = together(own.indices.astype(np.int32), 0).astype(np.int64)
  return Predictions(own.precisions, together(own.logits, 1), together(own.labels, 0), indices)


def _run_path(network, index, frozen, images, laterals):
  return network.run_path(frozen, index, images, laterals)
