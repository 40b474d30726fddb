"""Builds what a config describes: data, network, optimizer and devices."""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import optax

from dpoq_jax import config as config_lib
from dpoq_jax.data import corrupt_records, examples, in_memory
from dpoq_jax.data.order import Order, steps_per_epoch
from dpoq_jax.network import from_config
from dpoq_jax.network.trainable import TrainableNetwork
from dpoq_jax.runtime import compiler, processes, workdir
from dpoq_jax.training import splits
from dpoq_jax.training.optimizer import learning_rate_schedule, sgd
from dpoq_jax.training.train_step import Batch, TrainState, create_state

# The default on accelerators. It bounds how long a stop may take, since two or three dispatches are
# completed before it.
_STEPS_PER_DISPATCH = 50
# A step is a 32-bit integer on devices.
_MOST_STEPS = 2**31


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Holds a config and what it describes.

  Attributes:
    config: validated config.
    train_set: examples that are trained on.
    test_set: examples that accuracies are reported on.
    holdout_set: training examples that are held out of training, `config.data.holdout` of them.
    corrupt: records of the three sets that could not be read.
    network: network to train.
    optimizer: optimizer of all paths at once.
    learning_rate: learning rate as a function of the step.
    mesh: all devices of all processes along one axis, over which batches are split; the state is
      whole on each.
    steps_per_epoch: number of full batches in the training set.
  """

  config: config_lib.Config
  train_set: examples.ExampleSet
  test_set: examples.ExampleSet
  holdout_set: examples.ExampleSet
  corrupt: corrupt_records.Tally
  network: TrainableNetwork
  optimizer: optax.GradientTransformation
  learning_rate: optax.Schedule
  mesh: jax.sharding.Mesh
  steps_per_epoch: int

  @property
  def total_steps(self) -> int:
    """Returns the number of steps of the whole run."""
    return self.config.epochs * self.steps_per_epoch

  @property
  def order(self) -> Order:
    """Returns the order of the training examples, as far as this process gets them."""
    return Order(
      len(self.train_set),
      self.config.data.batch_size,
      self.config.seed,
      self.config.epochs,
      jax.process_index(),
      jax.process_count(),
    )

  def check_batch(self) -> None:
    """Checks that training batches can be split over the devices.

    Raises:
      ValueError: if they cannot.
    """
    batch_size, devices = self.config.data.batch_size, self.mesh.size
    if batch_size % devices:
      raise ValueError(
        f'config.data.batch_size={batch_size} is not divisible by the {devices} devices.'
      )

  @property
  def padding(self) -> int:
    """Returns the pixels of padding for random crops: of streamed images none, cropped already."""
    return self.config.data.pad if isinstance(self.train_set, in_memory.ImageSet) else 0

  @property
  def platform(self) -> str:
    """Returns the platform of the devices: `cpu`, `gpu` or `tpu`."""
    return self.mesh.devices.flat[0].platform

  @property
  def statistics_groups(self) -> int:
    """Returns the number of parts of a batch that are normalised apart."""
    return self.mesh.size if self.config.batch_statistics == 'per_device' else 1

  @property
  def replicated(self) -> NamedSharding:
    """Returns the sharding of the state: whole on each device."""
    return NamedSharding(self.mesh, PartitionSpec())

  @property
  def batch_sharding(self) -> NamedSharding:
    """Returns the sharding of a batch: its examples are split over the devices."""
    return NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names[0]))

  @property
  def batches_sharding(self) -> NamedSharding:
    """Returns the sharding of several batches, stacked along a first axis of their own."""
    return NamedSharding(self.mesh, PartitionSpec(None, self.mesh.axis_names[0]))

  @property
  def steps_per_dispatch(self) -> int:
    """Returns the most steps that run without the host; on CPU 1, unless the config says more.

    On CPU nothing is gained by more, and a streamed set sends each batch from the host.
    """
    if not isinstance(self.train_set, in_memory.ImageSet):
      return 1
    default = 1 if self.platform == 'cpu' else _STEPS_PER_DISPATCH
    return self.config.steps_per_dispatch or default

  def on_devices(self, batch: examples.Batch) -> Batch:
    """Puts a training batch on the devices: each process gives its share of the examples."""
    return {
      name: jax.make_array_from_process_local_data(self.batch_sharding, share)
      for name, share in batch.items()
    }

  def on_each_device(self, tree: Any) -> Any:
    """Puts arrays, the same in all processes, whole on each device, as those of the state are."""
    return jax.tree.map(
      lambda leaf: jax.make_array_from_process_local_data(self.replicated, np.asarray(leaf)), tree
    )

  def create_state(self) -> TrainState:
    """Returns the state at step 0, on all devices."""
    return self._creation(jax.random.key(self.config.seed))

  def abstract_state(self) -> Any:
    """Returns shapes, dtypes and shardings of the state, without allocating anything."""
    shapes = self._creation.eval_shape(jax.random.key(self.config.seed))
    return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.replicated), shapes
    )

  @property
  def dataset_facts(self) -> workdir.DatasetFacts:
    """Returns what a user of the trained network needs to know of its data."""
    return workdir.DatasetFacts(self.train_set.image_shape, self.train_set.class_names)

  @property
  def example_counts(self) -> dict[str, int]:
    """Returns the numbers of examples that are trained on, held out of training and reported on."""
    return {
      'training examples': len(self.train_set),
      'examples held out': len(self.holdout_set),
      'test examples': len(self.test_set),
    }

  @functools.cached_property
  def _creation(self) -> Any:
    """Returns the function that makes the state, traced once for its shapes and its values."""
    options = compiler.once_options(self.platform)
    return jax.jit(self._create, out_shardings=self.replicated, compiler_options=options)

  def _create(self, key: jax.Array) -> TrainState:
    images = jnp.zeros((1, *self.train_set.image_shape), jnp.uint8)
    return create_state(self.network, self.optimizer, key, images)


def build(config: config_lib.Config) -> Experiment:
  """Builds what a config describes; loads its data set, or opens it if it is streamed.

  Raises:
    ValueError: if a batch is larger than the data set, or the network cannot have these bits.
    FileNotFoundError: if there is no such data set; the message says how to get it.
  """
  tally = corrupt_records.Tally(config.data.max_corrupt)
  train_set, holdout_set = splits.load_train(config, tally)
  return assemble(config, train_set, splits.load_test(config, tally), holdout_set, tally)


def assemble(
  config: config_lib.Config,
  train_set: examples.ExampleSet,
  test_set: examples.ExampleSet,
  holdout_set: examples.ExampleSet,
  tally: corrupt_records.Tally,
) -> Experiment:
  """Builds what a config describes on data that is loaded already; see `build`."""
  steps = steps_per_epoch(len(train_set), config.data.batch_size)
  if config.epochs * steps >= _MOST_STEPS:
    raise config_lib.ConfigError(
      f'config.epochs={config.epochs}: of {steps} steps each; steps are counted to {_MOST_STEPS}.'
    )
  if config.data.pad >= min(train_set.image_shape[:2]):
    raise config_lib.ConfigError(
      f'config.data.pad={config.data.pad}: a crop could hold nothing of an image '
      f'{train_set.image_shape}; give less than its sides.'
    )
  schedule = learning_rate_schedule(config.optimizer, epochs=config.epochs, steps_per_epoch=steps)
  return Experiment(
    config=config,
    train_set=train_set,
    test_set=test_set,
    holdout_set=holdout_set,
    corrupt=tally,
    network=from_config.build_trainable(config, train_set.num_classes),
    optimizer=sgd(config.optimizer, schedule, from_config.rings(config.quantization)),
    learning_rate=schedule,
    mesh=processes.global_mesh(),
    steps_per_epoch=steps,
  )


def check_agreed(config: config_lib.Config) -> None:
  """Checks that all processes, each of which calls it, were given the same config, locations apart.

  Raises:
    ConfigError: if the config of this process is not that of process 0.
    OtherProcessError: if that of another one is not.
  """
  texts = processes.gathered({'config': config.model_dump_json()})
  first = config_lib.from_json(texts[0]['config'])

  def check() -> None:
    if differing := config_lib.differences(first, config, apart=workdir.LOCATIONS):
      raise config_lib.ConfigError(f'the processes differ in config.{differing[0]}.')

  processes.in_each(check)


def check_same_data(experiment: Experiment) -> None:
  """Checks that all processes, each of which calls it, read the same data, wherever each has them.

  Their numbers and names are compared. Of copies that differ each process would take its share of
  other steps, or of other classes.

  Raises:
    ConfigError: if the data of this process are not those of process 0.
    OtherProcessError: if those of another one are not.
  """
  facts = experiment.example_counts | {'classes': list(experiment.dataset_facts.class_names)}
  check_same(facts, 'data', 'config.data.dir')


def check_same(values: Mapping[str, Any], of: str, field: str) -> None:
  """Checks that all processes, each of which calls it, read the same from where a field says.

  Args:
    values: what tells it from others, by name: a JSON object.
    of: what is read, for the message.
    field: name of the field.

  Raises:
    ConfigError: if the values of this process are not those of process 0.
    OtherProcessError: if those of another one are not.
  """
  first = processes.gathered(values)[0]

  def check() -> None:
    if differing := [name for name in values if values[name] != first[name]]:
      raise config_lib.ConfigError(
        f'the processes differ in their {of}: {differing[0]}: {first[differing[0]]} -> '
        f'{values[differing[0]]}; give each a copy of the same ({field}).'
      )

  processes.in_each(check)
