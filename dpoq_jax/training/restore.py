"""Reads a trained network from its run, without the data it was trained on."""

import contextlib
import dataclasses
import functools
import pathlib
from typing import Any, Generic, Literal, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

from dpoq_jax import config as config_lib
from dpoq_jax.data import corrupt, examples
from dpoq_jax.network import from_config
from dpoq_jax.network.onion_network import Onion, Variables
from dpoq_jax.network.trainable import TrainableNetwork
from dpoq_jax.runtime import processes
from dpoq_jax.runtime import workdir as workdir_lib
from dpoq_jax.training import checkpoint, evaluation, metrics, splits
from dpoq_jax.training import optimizer as optimizer_lib
from dpoq_jax.training import train_step as state_lib

Step = int | Literal['best']
"""A checkpoint: the number of its step, or the one that was evaluated best."""

Network = TypeVar('Network', bound=TrainableNetwork, covariant=True)


@dataclasses.dataclass(frozen=True)
class Trained(Generic[Network]):
  """Holds a network read from its run, frozen unless it says otherwise.

  Attributes:
    config: of the run.
    network: the network.
    variables: frozen, unless it says otherwise.
    step: of the checkpoint.
    facts: image shape and class names.
  """

  config: config_lib.Config
  network: Network
  variables: Variables
  step: int
  facts: workdir_lib.DatasetFacts

  def predict(self, image_set: examples.ExampleSet) -> evaluation.Predictions:
    """Returns the logits of all precisions on a set of images."""
    variables = jax.device_put(self.variables, NamedSharding(self._mesh, PartitionSpec()))
    return self._evaluate(variables, image_set, self.config.data.batch_size)

  def with_data_in(self, data_dir: str | None) -> 'Trained[Network]':
    """Returns the same with its data set in another directory; None leaves it where it was."""
    if not data_dir:
      return self
    data = self.config.data.model_copy(update={'dir': data_dir})
    return dataclasses.replace(self, config=self.config.model_copy(update={'data': data}))

  def training_images(self, count: int) -> np.ndarray:
    """Returns images trained on, drawn by the run's seed, as evaluation sees them.

    Args:
      count: of images; all, if there are fewer.

    Returns:
      uint8 [count, height, width, channels]; records that cannot be read are left out.

    Raises:
      ValueError: if `count` is not positive.
      FileNotFoundError: if the data set is not there.
      CorruptRecordsError: if more of its records than may be skipped cannot be read.
    """
    if count < 1:
      raise ValueError(f'{count} images asked for: 1 is the least.')
    train_set, _ = splits.load_train(self.config, corrupt.Tally(self.config.data.max_corrupt))
    # Drawn, as any order of a data set may be by class.
    order = np.random.default_rng(self.config.seed).permutation(len(train_set))
    chosen = train_set.take(np.sort(order[:count]))
    with contextlib.closing(chosen.evaluation_batches(len(chosen))) as batches:
      batch = next(batches)
    return batch['image'][batch['mask']]

  @functools.cached_property
  def _mesh(self) -> jax.sharding.Mesh:
    return processes.local_mesh()

  @functools.cached_property
  def _evaluate(self) -> evaluation.Evaluator:
    return evaluation.Evaluator(self.network, self._mesh)


def load(workdir: pathlib.Path, step: Step | None = None) -> Trained[Onion]:
  """Restores a checkpoint of an onion's run in `workdir` and freezes it.

  Args:
    workdir: of the run.
    step: as in `restore`.

  Raises:
    FileNotFoundError, CheckpointError: if there is no run, or as in `restore`.
    ConfigError: if its precisions share whole kernels, so that none reuses another's results.
  """
  source = load_latents(workdir, step)
  network = source.network
  if not isinstance(network, Onion):
    raise config_lib.ConfigError(
      f'the run in {workdir} is no onion (quantization.sharing='
      f'{source.config.quantization.sharing}): a higher precision reuses nothing of a lower one.'
    )
  variables = jax.jit(network.freeze)(source.variables)
  return Trained(source.config, network, variables, source.step, source.facts)


def load_latents(workdir: pathlib.Path, step: Step | None = None) -> Trained[TrainableNetwork]:
  """Restores a checkpoint as `load` does, of any network, its variables as they were trained."""
  config, facts = workdir_lib.read_config(workdir), workdir_lib.read_dataset(workdir)
  network = from_config.build(config, len(facts.class_names))
  # The rate itself is no part of the state.
  schedule = optimizer_lib.learning_rate_schedule(
    config.optimizer, epochs=config.epochs, steps_per_epoch=1
  )
  create = functools.partial(
    state_lib.create, network, optimizer_lib.sgd(config.optimizer, schedule)
  )
  images = jax.ShapeDtypeStruct((1, *facts.image_shape), jnp.uint8)
  shapes = jax.eval_shape(create, jax.random.key(0), images)
  on_device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  like = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=on_device), shapes
  )
  restored = restore(workdir, like, step)
  return Trained(config, network, restored.state.variables, restored.step, facts)


def restore(workdir: pathlib.Path, like: Any, step: Step | None = None) -> checkpoint.Restored:
  """Reads a checkpoint of the run in `workdir`, touching nothing.

  Args:
    workdir: of the run.
    like: structure, shapes, dtypes and shardings to restore.
    step: of the checkpoint, or the one evaluated best; the newest intact one by default.

  Raises:
    FileNotFoundError: if the run has no checkpoint yet, or none that was evaluated when the best
      is asked for.
    CheckpointError: if there is no intact one, or none of that step.
  """
  top1 = metrics.mean_top1(metrics.read_rows(workdir))
  reader = checkpoint.Checkpoints(workdir, top1, read_only=True)
  with contextlib.closing(reader) as checkpoints:
    chosen = checkpoints.best_step() if step == 'best' else step
    if step == 'best' and chosen is None:
      raise FileNotFoundError(f'no checkpoint of the run in {workdir} has been evaluated yet.')
    restored = checkpoints.restore(like, chosen)
  if restored is None:
    raise FileNotFoundError(f'the run in {workdir} has no checkpoint yet: train it first.')
  return restored
