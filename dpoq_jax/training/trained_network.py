"""Reads a trained network from its run, without the data it was trained on."""

from collections.abc import Mapping
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
from dpoq_jax import onion
from dpoq_jax.data import corrupt_records
from dpoq_jax.data.examples import ExampleSet
from dpoq_jax.network import from_config
from dpoq_jax.network.onion_network import Onion
from dpoq_jax.network.shared_kernels import SharedNetwork
from dpoq_jax.network.trainable import TrainableNetwork, Variables
from dpoq_jax.runtime import processes
from dpoq_jax.runtime import workdir as workdir_lib
from dpoq_jax.training import checkpoint, evaluation, metrics, run_identity, splits
from dpoq_jax.training.optimizer import learning_rate_schedule, sgd
from dpoq_jax.training.train_step import create_state

Step = int | Literal['best']
"""Names a checkpoint: by its step, or `best` for the one that was evaluated best."""

_NO_CHECKPOINT = 'the run in {} has no checkpoint yet: train it first.'

Network = TypeVar('Network', bound=TrainableNetwork, covariant=True)


@dataclasses.dataclass(frozen=True)
class Trained(Generic[Network]):
  """Holds a trained network, as it was read from its run.

  Attributes:
    config: config of the run.
    network: the network.
    variables: its variables: frozen by `load`, as they were trained by `load_latents`.
    step: step of the checkpoint.
    facts: image shape and class names of the data set.
    example_counts: numbers of its examples, as `Experiment` has them; empty if an earlier
      version trained it.
  """

  config: config_lib.Config
  network: Network
  variables: Variables
  step: int
  facts: workdir_lib.DatasetFacts
  example_counts: Mapping[str, int] = dataclasses.field(default_factory=dict)

  def predict(self, image_set: ExampleSet) -> evaluation.Evaluation:
    """Evaluates all precisions on a set of images."""
    variables = jax.device_put(self.variables, NamedSharding(self._mesh, PartitionSpec()))
    return self._evaluate(variables, image_set, self.config.data.batch_size)

  def with_data_in(self, data_dir: str | None) -> 'Trained[Network]':
    """Returns the same network with its data set in another directory; None changes nothing."""
    return dataclasses.replace(self, config=self.config.with_data_in(data_dir))

  def training_images(self, count: int) -> np.ndarray:
    """Returns images of the training set, drawn by the run's seed, as evaluation sees them.

    Args:
      count: number of images; if there are fewer, all are returned.

    Returns:
      Images, uint8 [count, height, width, channels], without records that cannot be read.

    Raises:
      ValueError: if `count` is not positive, or the data set has other images or classes than those
        trained on.
      FileNotFoundError: if there is no such data set.
      CorruptRecordsError: if it has more corrupt records than may be skipped.
    """
    if count < 1:
      raise ValueError(f'{count} images asked for: 1 is the least.')
    train_set, _ = splits.load_train(
      self.config, corrupt_records.Tally(self.config.data.max_corrupt)
    )
    splits.check_trained_on(self.config.data, train_set, self.facts)
    # Drawn at random, since a data set may be sorted by class.
    order = np.random.default_rng(self.config.seed).permutation(len(train_set))
    chosen = train_set.take(np.sort(order[:count]))
    with contextlib.closing(chosen.evaluation_batches(len(chosen))) as batches:
      batch = next(batches)
    return batch['image'][batch['mask']]

  @functools.cached_property
  def _mesh(self) -> jax.sharding.Mesh:
    """Returns the devices of this process."""
    return processes.local_mesh()

  @functools.cached_property
  def _evaluate(self) -> evaluation.Evaluator:
    """Returns the evaluator, which keeps what it compiles from one set of images to the next."""
    return evaluation.Evaluator(self.network, self._mesh)


def load(
  workdir: pathlib.Path, step: Step | None = None, precision: int | None = None
) -> Trained[Onion]:
  """Reads the onion of the run in `workdir` from a checkpoint, and freezes it.

  Args:
    workdir: directory of the run.
    step: checkpoint to read; None is the newest intact one.
    precision: bits of the one precision that is wanted where precisions share whole kernels: that
      network alone, which is an onion of one precision.

  Raises:
    FileNotFoundError: if there is no run, or no such checkpoint; see `read_checkpoint`.
    CheckpointError: if the checkpoint cannot be read.
    ConfigError: if the network is no onion: its precisions share whole kernels.
    ValueError: for a precision that the network does not have.
  """
  source = load_latents(workdir, step)
  network = source.network
  if isinstance(network, SharedNetwork) and precision is not None:
    index = onion.check_precision(precision, network.bits)
    variables = network.variables_of_path(jax.jit(network.freeze)(source.variables), index)
    return _of(source, network.networks[index], variables)
  if not isinstance(network, Onion):
    raise config_lib.ConfigError(
      f'the run in {workdir} is no onion (quantization.sharing='
      f'{source.config.quantization.sharing}): a higher precision reuses nothing of a lower one, '
      'and one alone has to be asked for.'
    )
  return _of(source, network, jax.jit(network.freeze)(source.variables))


def _of(source: Trained[TrainableNetwork], network: Onion, variables: Variables) -> Trained[Onion]:
  """Returns a frozen network of what was read."""
  return Trained(
    source.config, network, variables, source.step, source.facts, source.example_counts
  )


def load_latents(workdir: pathlib.Path, step: Step | None = None) -> Trained[TrainableNetwork]:
  """Reads the network of the run in `workdir` as `load` does, but of any kind and not frozen."""
  config, facts = workdir_lib.read_config(workdir), workdir_lib.read_dataset(workdir)
  classes = len(facts.class_names)
  trainable = from_config.build_trainable(config, classes)
  # One step an epoch, as the structure of the state does not depend on the schedule.
  schedule = learning_rate_schedule(config.optimizer, epochs=config.epochs, steps_per_epoch=1)
  rings = from_config.rings(config.quantization)
  create = functools.partial(create_state, trainable, sgd(config.optimizer, schedule, rings))
  images = jax.ShapeDtypeStruct((1, *facts.image_shape), jnp.uint8)
  shapes = jax.eval_shape(create, jax.random.key(0), images)
  on_device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  like = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=on_device), shapes
  )
  restored = read_checkpoint(workdir, like, step)
  # Companions were trained, but are of no use afterwards.
  network = from_config.build(config, classes)
  counts = restored.meta.get('examples', {})
  return Trained(config, network, restored.state.variables, restored.step, facts, counts)


def check_saved(workdir: pathlib.Path) -> None:
  """Checks that the run in `workdir` has saved a checkpoint, readable or not.

  Raises:
    FileNotFoundError: if it has none.
  """
  if not checkpoint.steps_saved(workdir):
    raise FileNotFoundError(_NO_CHECKPOINT.format(workdir))


def read_checkpoint(
  workdir: pathlib.Path, like: Any, step: Step | None = None
) -> checkpoint.Restored:
  """Reads a checkpoint of the run in `workdir`, and leaves the directory as it is.

  Args:
    workdir: directory of the run.
    like: structure, shapes, dtypes and shardings to restore.
    step: checkpoint to read; None is the newest intact one.

  Raises:
    FileNotFoundError: if the run has no checkpoint yet, or the best one is asked for and none has
      been evaluated.
    CheckpointError: if no checkpoint is intact, there is none of that step, or it is of another
      run.
    MetricsError: if the log of the run is damaged.
  """
  top1 = metrics.mean_top1(metrics.read_rows(workdir))
  reader = checkpoint.Checkpoints(workdir, top1, read_only=True)
  with contextlib.closing(reader) as checkpoints:
    chosen = checkpoints.best_step() if step == 'best' else step
    if step == 'best' and chosen is None:
      raise FileNotFoundError(f'no checkpoint of the run in {workdir} has been evaluated yet.')
    restored = checkpoints.restore(like, chosen)
  if restored is None:
    raise FileNotFoundError(_NO_CHECKPOINT.format(workdir))
  run_identity.check(restored.meta, workdir)
  return restored
