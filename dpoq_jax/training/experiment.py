"""Builds everything that a config stands for: data, network, optimizer, devices."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import optax

from dpoq_jax import config as config_lib
from dpoq_jax.data import corrupt, examples, in_memory
from dpoq_jax.network import from_config
from dpoq_jax.network.trainable import TrainableNetwork
from dpoq_jax.runtime import compiler, processes, workdir
from dpoq_jax.training import optimizer as optimizer_lib
from dpoq_jax.training import splits
from dpoq_jax.training import train_step as state_lib

# Upper bound on how late a stop is acted on: two or three times as many steps.
_STEPS_PER_DISPATCH = 50


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A config with all that follows from it.

  Attributes:
    config: the validated config.
    train_set: trained on.
    test_set: reported on.
    holdout_set: kept out of both by `config.data.holdout`.
    corrupt: records of all three that could not be read.
    network: the network.
    optimizer: of all paths at once.
    learning_rate: step to learning rate.
    mesh: all devices of all processes along one axis; batches are split over it, state is on each.
    steps_per_epoch: full batches of the training set.
  """

  config: config_lib.Config
  train_set: examples.ExampleSet
  test_set: examples.ExampleSet
  holdout_set: examples.ExampleSet
  corrupt: corrupt.Tally
  network: TrainableNetwork
  optimizer: optax.GradientTransformation
  learning_rate: optax.Schedule
  mesh: jax.sharding.Mesh
  steps_per_epoch: int

  @property
  def total_steps(self) -> int:
    """Steps of the whole run."""
    return self.config.epochs * self.steps_per_epoch

  @property
  def order(self) -> examples.Order:
    """Which training examples this process gets in each step."""
    return examples.Order(
      len(self.train_set),
      self.config.data.batch_size,
      self.config.seed,
      self.config.epochs,
      jax.process_index(),
      jax.process_count(),
    )

  def check_batch(self) -> None:
    """Raises a ValueError unless training batches can be split over the devices."""
    batch_size, devices = self.config.data.batch_size, self.mesh.size
    if batch_size % devices:
      raise ValueError(
        f'config.data.batch_size={batch_size} is not divisible by the {devices} devices.'
      )

  @property
  def platform(self) -> str:
    """Of the devices: `cpu`, `gpu` or `tpu`."""
    return self.mesh.devices.flat[0].platform

  @property
  def statistics_groups(self) -> int:
    """Parts of a batch that are normalised apart."""
    return self.mesh.size if self.config.batch_statistics == 'per_device' else 1

  @property
  def replicated(self) -> NamedSharding:
    """Sharding of the state."""
    return NamedSharding(self.mesh, PartitionSpec())

  @property
  def batch_sharding(self) -> NamedSharding:
    """Sharding of batches: examples over devices."""
    return NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names[0]))

  @property
  def batches_sharding(self) -> NamedSharding:
    """Sharding of several batches along a first axis of their own."""
    return NamedSharding(self.mesh, PartitionSpec(None, self.mesh.axis_names[0]))

  @property
  def steps_per_dispatch(self) -> int:
    """Most steps that run without the host; 1 on CPU, where nothing is gained, if not given."""
    if not isinstance(self.train_set, in_memory.ImageSet):
      return 1
    default = 1 if self.platform == 'cpu' else _STEPS_PER_DISPATCH
    return self.config.steps_per_dispatch or default

  def on_devices(self, batch: examples.Batch) -> state_lib.Batch:
    """A training batch, put together from the shares of all processes."""
    return {
      name: jax.make_array_from_process_local_data(self.batch_sharding, share)
      for name, share in batch.items()
    }

  def on_each_device(self, tree: Any) -> Any:
    """Arrays that all processes have, as they are in the state: whole on each device."""
    return jax.tree.map(
      lambda leaf: jax.make_array_from_process_local_data(self.replicated, np.asarray(leaf)), tree
    )

  def create_state(self) -> state_lib.TrainState:
    """The state at step 0, on all devices."""
    options = compiler.once_options(self.platform)
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
    return workdir.DatasetFacts(self.train_set.image_shape, self.train_set.class_names)

  def _create(self, key: jax.Array) -> state_lib.TrainState:
    images = jnp.zeros((1, *self.train_set.image_shape), jnp.uint8)
    return state_lib.create(self.network, self.optimizer, key, images)


def build(config: config_lib.Config) -> Experiment:
  """Builds what a config describes, loading its data set, or opening it if it is streamed.

  Raises:
    ValueError: if a batch is larger than the data set, or the network cannot have these bits.
    FileNotFoundError: if the data set is not there; the message says how to get it.
  """
  tally = corrupt.Tally(config.data.max_corrupt)
  train_set, holdout_set = splits.load_train(config, tally)
  return assemble(config, train_set, splits.load_test(config, tally), holdout_set, tally)


def assemble(
  config: config_lib.Config,
  train_set: examples.ExampleSet,
  test_set: examples.ExampleSet,
  holdout_set: examples.ExampleSet,
  tally: corrupt.Tally,
) -> Experiment:
  """What a config describes, on data that is there already; see `build`."""
  steps = examples.steps_per_epoch(len(train_set), config.data.batch_size)
  schedule = optimizer_lib.learning_rate_schedule(
    config.optimizer, epochs=config.epochs, steps_per_epoch=steps
  )
  return Experiment(
    config=config,
    train_set=train_set,
    test_set=test_set,
    holdout_set=holdout_set,
    corrupt=tally,
    network=from_config.build(config, train_set.num_classes),
    optimizer=optimizer_lib.sgd(config.optimizer, schedule),
    learning_rate=schedule,
    mesh=processes.global_mesh(),
    steps_per_epoch=steps,
  )


def check_agreed(config: config_lib.Config) -> None:
  """Checks that all processes were given the same, locations apart.

  Raises:
    ConfigError: where it is not that of process 0.
  """
  texts = processes.gathered({'config': config.model_dump_json()})
  first = config_lib.from_json(texts[0]['config'])
  if differing := config_lib.differences(first, config, apart=workdir.LOCATIONS):
    raise config_lib.ConfigError(f'the processes differ in config.{differing[0]}.')
