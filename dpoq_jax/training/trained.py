"""A trained network, read from its run without the data it was trained on."""

import contextlib
import dataclasses
import functools
import pathlib
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from dpoq_jax import config as config_lib
from dpoq_jax import network, networks, shared
from dpoq_jax import workdir as workdir_lib
from dpoq_jax.data import pipeline
from dpoq_jax.training import checkpoint, evaluation, experiment, metrics
from dpoq_jax.training import optimizer as optimizer_lib
from dpoq_jax.training import state as state_lib


@dataclasses.dataclass(frozen=True)
class Trained:
  """A frozen network with what it comes from.

  Attributes:
    config: of the run.
    onion: the network.
    variables: frozen, unless it says otherwise.
    step: of the checkpoint.
    facts: image shape and class names.
  """

  config: config_lib.Config
  onion: shared.Network
  variables: network.Variables
  step: int
  facts: workdir_lib.DatasetFacts

  def predict(self, image_set: pipeline.ExampleSet) -> evaluation.Predictions:
    """Logits of all precisions on a set of images."""
    variables = jax.device_put(self.variables, NamedSharding(self._mesh, PartitionSpec()))
    return self._evaluate(variables, image_set, self.config.data.batch_size)

  @functools.cached_property
  def _mesh(self) -> jax.sharding.Mesh:
    return experiment.local_mesh()

  @functools.cached_property
  def _evaluate(self) -> evaluation.Evaluator:
    return evaluation.Evaluator(self.onion, self._mesh)


def load(workdir: pathlib.Path, step: int | Literal['best'] | None = None) -> Trained:
  """Restores a checkpoint of an onion's run in `workdir` and freezes it.

  Args:
    workdir: of the run.
    step: as in `restore`.

  Raises:
    FileNotFoundError, CheckpointError: if there is no run, or as in `restore`.
    ConfigError: if its precisions share whole kernels, so that none reuses another's results.
  """
  source = load_latents(workdir, step)
  if not isinstance(source.onion, network.Onion):
    raise config_lib.ConfigError(
      f'the run in {workdir} is no onion (quantization.sharing='
      f'{source.config.quantization.sharing}): a higher precision reuses nothing of a lower one.'
    )
  variables = jax.jit(source.onion.freeze)(source.variables)
  return dataclasses.replace(source, variables=variables)


def load_latents(workdir: pathlib.Path, step: int | Literal['best'] | None = None) -> Trained:
  """As `load`, with variables as they were trained, not frozen."""
  config, facts = workdir_lib.read_config(workdir), workdir_lib.read_dataset(workdir)
  onion = networks.build(config, len(facts.class_names))
  # The rate itself is no part of the state.
  schedule = optimizer_lib.learning_rate_schedule(
    config.optimizer, epochs=config.epochs, steps_per_epoch=1
  )
  create = functools.partial(state_lib.create, onion, optimizer_lib.sgd(config.optimizer, schedule))
  images = jax.ShapeDtypeStruct((1, *facts.image_shape), jnp.uint8)
  shapes = jax.eval_shape(create, jax.random.key(0), images)
  on_device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  like = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=on_device), shapes
  )
  restored = restore(workdir, like, step)
  return Trained(config, onion, restored.state.variables, restored.step, facts)


def restore(
  workdir: pathlib.Path, like: Any, step: int | Literal['best'] | None = None
) -> checkpoint.Restored:
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
