"""Everything a config stands for, built: data, network, optimizer, devices."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import optax

from dpoq_jax import config as config_lib
from dpoq_jax import networks, shared, workdir
from dpoq_jax.data import pipeline, sources
from dpoq_jax.training import optimizer as optimizer_lib
from dpoq_jax.training import state as state_lib


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A config with all that follows from it.

  Attributes:
    config: the validated config.
    train_set: trained on.
    test_set: reported on.
    holdout_set: kept out of both by `config.data.holdout`.
    onion: the network.
    optimizer: of all paths at once.
    learning_rate: step to learning rate.
    mesh: all local devices along one axis; batches are split over it, state is on each.
    steps_per_epoch: full batches of the training set.
  """

  config: config_lib.Config
  train_set: sources.ImageSet
  test_set: sources.ImageSet
  holdout_set: sources.ImageSet
  onion: shared.Network
  optimizer: optax.GradientTransformation
  learning_rate: optax.Schedule
  mesh: jax.sharding.Mesh
  steps_per_epoch: int

  @property
  def total_steps(self) -> int:
    """Steps of the whole run."""
    return self.config.epochs * self.steps_per_epoch

  def check_batch(self) -> None:
    """Raises a ValueError unless training batches can be split over the devices."""
    batch_size, devices = self.config.data.batch_size, self.mesh.size
    if batch_size % devices:
      raise ValueError(
        f'config.data.batch_size={batch_size} is not divisible by the {devices} devices.'
      )

  @property
  def replicated(self) -> NamedSharding:
    """Sharding of the state."""
    return NamedSharding(self.mesh, PartitionSpec())

  @property
  def batch_sharding(self) -> NamedSharding:
    """Sharding of batches: examples over devices."""
    return NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names[0]))

  def create_state(self) -> state_lib.TrainState:
    """The state at step 0, on all devices."""
    # Run once: compiling it fast matters more than what it compiles to.
    on_cpu = self.mesh.devices.flat[0].platform == 'cpu'
    options = {'xla_backend_optimization_level': 0} if on_cpu else None
    create = jax.jit(self._create, out_shardings=self.replicated, compiler_options=options)
    return create(jax.random.key(self.config.seed))

  def abstract_state(self) -> Any:
    """Shapes, dtypes and shardings of the state, with nothing allocated."""
    shapes = jax.eval_shape(self._create, jax.random.key(self.config.seed))
    return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.replicated), shapes
    )

  @property
  def dataset_facts(self) -> workdir.DatasetFacts:
    """What a user of the trained network needs to know."""
    height, width, channels = self.train_set.images.shape[1:]
    return workdir.DatasetFacts((height, width, channels), self.train_set.class_names)

  def _create(self, key: jax.Array) -> state_lib.TrainState:
    images = jnp.zeros((1, *self.train_set.images.shape[1:]), jnp.uint8)
    return state_lib.create(self.onion, self.optimizer, key, images)


def build(config: config_lib.Config) -> Experiment:
  """Builds what a config describes, loading its data set.

  Raises:
    ValueError: if a batch is larger than the data set, or the network cannot have these bits.
    FileNotFoundError: if the data set is not there; the message says how to get it.
  """
  train_set, holdout_set = load_train(config)
  steps = pipeline.steps_per_epoch(len(train_set), config.data.batch_size)
  schedule = optimizer_lib.learning_rate_schedule(
    config.optimizer, epochs=config.epochs, steps_per_epoch=steps
  )
  return Experiment(
    config=config,
    train_set=train_set,
    test_set=sources.load(config.data.name, 'test', config.data.dir),
    holdout_set=holdout_set,
    onion=networks.build(config, train_set.num_classes),
    optimizer=optimizer_lib.sgd(config.optimizer, schedule),
    learning_rate=schedule,
    mesh=local_mesh(),
    steps_per_epoch=steps,
  )


def load_train(config: config_lib.Config) -> tuple[sources.ImageSet, sources.ImageSet]:
  """The training split in two: what is trained on, and the examples held out of it.

  Raises:
    ValueError: if nothing is left to train on.
    FileNotFoundError: if the data set is not there.
  """
  whole, holdout = sources.load(config.data.name, 'train', config.data.dir), config.data.holdout
  if holdout >= len(whole):
    raise ValueError(
      f'config.data.holdout={holdout}: the training split has {len(whole)} examples.'
    )
  # Three numbers: (seed, epoch) draw the order of an epoch.
  order = np.random.default_rng((config.seed, 0, holdout)).permutation(len(whole))
  if not holdout:
    return whole, whole.take(order[:0])
  return whole.take(np.sort(order[holdout:])), whole.take(np.sort(order[:holdout]))


def local_mesh() -> jax.sharding.Mesh:
  """All devices of this process along one axis, `data`."""
  devices = jax.local_device_count()
  return jax.make_mesh((devices,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
