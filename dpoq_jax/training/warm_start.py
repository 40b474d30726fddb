"""Starts a run from another one: adds a ring to its bit list, or starts from its float network.

Adding a ring keeps the paths below as they are, parameters and running statistics (section 5 of the
paper): the logits of the old precisions stay what they were, bit for bit. From an artifact, whose
classes may be others, all paths are trained on (`artifact_start`).
"""

from collections.abc import Mapping
import contextlib
import dataclasses
import functools
import pathlib
from typing import Any
import warnings

import jax
import jax.numpy as jnp

from dpoq_jax import config as config_lib
from dpoq_jax.core import quantizers
from dpoq_jax.core.names import is_companion, path_name, statistics_collection
from dpoq_jax.runtime import compiler, processes
from dpoq_jax.runtime import workdir as workdir_lib
from dpoq_jax.training import artifact_start, checkpoint, clips, rounding, trained_network
from dpoq_jax.training import experiment as experiment_lib
from dpoq_jax.training.experiment import Experiment
from dpoq_jax.training.train_step import TrainState

_FLOAT_BITS = (quantizers.FLOAT_WIDTH,)

# Examples of the first batch, at most, that clips are calibrated on.
_CALIBRATION_EXAMPLES = 512

# Config fields that decide what a path is made of, and so must be those of the other run. A float
# network has no quantized activations and no quantized weights, a single path nothing below it.
_FIELDS_OF_ANY_PATH = ('model.name', 'model.depth', 'model.width', 'quantization.sharing')
_FIELDS_OF_QUANTIZED_PATHS = (
  'quantization.weight_quantizer',
  'quantization.compute_dtype',
)
_FIELDS_OF_SEVERAL_PATHS = tuple(f'quantization.{name}' for name in artifact_start.BETWEEN_PATHS)


def check(experiment: Experiment) -> None:
  """Checks that this run can start from what `config.init_from` names, if that is given.

  Raises:
    FileNotFoundError: if there is neither a run with a checkpoint nor an artifact.
    ValueError: if there is no pretrained network of that name, or the artifact cannot be read.
    ConfigError: if its bit list does not begin this one, its network is another, it was trained on
      images or classes of another kind, or companions or a teacher have no path left to train.
  """
  if experiment.config.init_from is None:
    return
  if artifact := artifact_start.folder(experiment.config.init_from):
    artifact_start.check(experiment, artifact)
    return
  source = pathlib.Path(experiment.config.init_from)
  theirs, facts = workdir_lib.read_config(source), workdir_lib.read_dataset(source)
  trained_network.check_saved(source)
  bits, wanted = theirs.quantization.bits, experiment.network.bits
  if bits != _FLOAT_BITS and (len(bits) >= len(wanted) or wanted[: len(bits)] != bits):
    raise config_lib.ConfigError(
      f'config.init_from={source}: its bits {bits} do not begin {wanted}; a ring can only be added '
      'above those there are.'
    )
  fields = _FIELDS_OF_ANY_PATH
  if bits != _FLOAT_BITS:
    fields += _FIELDS_OF_QUANTIZED_PATHS
    # The activations of the ring that is added may have any width.
    of_kept_paths = experiment.config.quantization.activation_widths[: len(bits)]
    if theirs.quantization.activation_widths != of_kept_paths:
      fields += ('quantization.activation_bits',)
    if len(bits) > 1:
      fields += _FIELDS_OF_SEVERAL_PATHS
  differences = config_lib.differences(
    theirs, experiment.config, apart=workdir_lib.MAY_CHANGE_ON_RESUME
  )
  if changed := [each for each in differences if each.partition(':')[0] in fields]:
    raise config_lib.ConfigError(
      f'config.init_from={source} holds another network ({"; ".join(changed)}).'
    )
  if bits != _FLOAT_BITS:
    _check_objective(experiment.config, len(bits))
  ours = experiment.dataset_facts
  if (facts.image_shape, len(facts.class_names)) != (ours.image_shape, len(ours.class_names)):
    raise config_lib.ConfigError(
      f'config.init_from={source} was trained on {len(facts.class_names)} classes of images '
      f'{facts.image_shape}, this data set has {len(ours.class_names)} of {ours.image_shape}.'
    )
  if bits != _FLOAT_BITS and facts.class_names != ours.class_names:
    raise config_lib.ConfigError(
      f'config.init_from={source} was trained on other classes, or in another order: its paths '
      'stay as they are, and would say their numbers.'
    )
  _warn_of_examples_seen(theirs, experiment.config)


def _warn_of_examples_seen(theirs: config_lib.Config, ours: config_lib.Config) -> None:
  """Warns if examples that are held out or reported on here may have been trained on there.

  Args:
    theirs: config of the run that this one starts from.
    ours: config of this run.
  """
  if theirs.data.name != ours.data.name:
    return
  fields = {'data.train_split'}
  if ours.data.holdout:
    # These draw what is held out.
    fields |= {'seed', 'data.holdout'}
  changed = config_lib.differences(theirs, ours, apart=config_lib.field_names() - fields)
  if changed:
    warnings.warn(
      f'config.init_from={ours.init_from} was trained on other examples ({"; ".join(changed)}): it '
      'may have seen some that are held out or reported on here, which then promises too much.',
      stacklevel=2,
    )


def _check_objective(config: config_lib.Config, fixed: int) -> None:
  """Checks that companions and teachers are of use where the lowest paths stay as they are.

  Args:
    config: config of this run.
    fixed: number of those paths.

  Raises:
    ConfigError: if all that they would train is fixed.
  """
  objective, count = config.objective, len(config.quantization.bits)
  kept = f'the {fixed} lowest paths are those of config.init_from and stay as they are'
  if objective.companion_bits and (objective.companion_rings or count) <= fixed:
    raise config_lib.ConfigError(
      f'config.objective.companion_rings={objective.companion_rings}: {kept}; give None for a '
      'companion of every ring that is added, or companion_bits=() for none.'
    )
  if objective.distillation and objective.teacher == 'highest' and fixed == count - 1:
    raise config_lib.ConfigError(
      f'config.objective.distillation={objective.distillation}: {kept}, so that the highest has '
      'none to teach; give 0.'
    )


def initial_state(experiment: Experiment) -> tuple[TrainState, int]:
  """Returns the state at step 0, and the number of the lowest paths that are not trained.

  `check` has to have passed. Of several processes each calls it.

  Raises:
    ConfigError: if the tensors of the artifact to start from are not of the shapes of this run's,
      or several processes have read different copies.
    ArtifactError, CheckpointError: if what to start from cannot be read.
  """
  state, fixed = experiment.create_state(), 0
  if experiment.config.init_from is not None:
    artifact = artifact_start.folder(experiment.config.init_from)
    state, fixed = (
      (_from_artifact(experiment, state, artifact), 0) if artifact else _from_run(experiment, state)
    )
  if seed := experiment.config.rounding_seed:
    state = _nudged(experiment, state, fixed, seed)
  if experiment.config.quantization.calibrate_clips:
    state = _with_calibrated_clips(experiment, state, fixed)
  return state, fixed


def _from_run(experiment: Experiment, state: TrainState) -> tuple[TrainState, int]:
  """Returns a fresh state with what the other run has trained; see `initial_state`."""
  source = trained_network.load_latents(pathlib.Path(str(experiment.config.init_from)))
  bits = source.network.bits
  is_float = bits == _FLOAT_BITS
  started = {b: bits[0] if is_float else b for b in (experiment.network.bits if is_float else bits)}
  state = _started(experiment, state, source.variables, started)
  return state, 0 if is_float else len(bits)


def _from_artifact(experiment: Experiment, state: TrainState, folder: pathlib.Path) -> TrainState:
  """Returns a fresh state with what an artifact holds; see `initial_state`."""
  source = processes.in_each(lambda: artifact_start.read(experiment, folder))
  return _started(experiment, state, source.variables, {b: b for b in source.bits})


def _started(
  experiment: Experiment,
  state: TrainState,
  source: Mapping[str, Any],
  started: Mapping[int, int],
) -> TrainState:
  """Returns a fresh state with paths of another network in place of its own.

  Args:
    experiment: experiment of the state.
    state: fresh state.
    source: variables of the other network, with latents.
    started: precision that each path starts from, by its own.

  Raises:
    ConfigError, OtherProcessError: if several processes have read different copies of it.
  """
  checksum = {'checksum': checkpoint.digest(source)}
  experiment_lib.check_same(checksum, 'weights to start from', 'config.init_from')
  variables: dict[str, Any] = {**state.variables, 'params': {**state.params}}
  for precision, theirs in started.items():
    name, statistics = path_name(precision), statistics_collection(precision)
    # What the other network does not have, clips and shifts of a float one, starts as in a fresh
    # path. Companions start as their path does.
    names = [name, *(other for other in variables['params'] if is_companion(other, precision))]
    for each in names:
      variables['params'][each] = _overlay(
        variables['params'][each], source['params'][path_name(theirs)]
      )
    variables[statistics] = jax.tree.map(jnp.copy, source[statistics_collection(theirs)])
  params = variables.pop('params')
  return experiment.on_each_device(dataclasses.replace(state, params=params, collections=variables))


def _nudged(experiment: Experiment, state: TrainState, fixed: int, seed: int) -> TrainState:
  """Returns a state with all parameters, those of fixed paths apart, moved by their last digit."""
  nudge = jax.jit(
    rounding.nudge,
    static_argnums=1,
    out_shardings=experiment.replicated,
    compiler_options=compiler.once_options(experiment.platform),
  )
  moved: dict[str, Any] = nudge(state.params, seed)
  kept = [path_name(precision) for precision in experiment.network.bits[:fixed]]
  return dataclasses.replace(state, params=moved | {name: state.params[name] for name in kept})


def _with_calibrated_clips(experiment: Experiment, state: TrainState, fixed: int) -> TrainState:
  """Returns a state whose clips, those of fixed paths apart, suit the first batch of the run."""
  # The same examples in every process, so that all find the same clips; each on one device of its
  # own, which need not hold a batch that is meant for many.
  order = dataclasses.replace(experiment.order, process=0, processes=1)
  chosen = experiment.train_set.take(order.examples(0)[:_CALIBRATION_EXAMPLES])
  with contextlib.closing(chosen.evaluation_batches(len(chosen))) as batches:
    images = next(batches)['image']
  calibrate = jax.jit(functools.partial(clips.calibrate, experiment.network, fixed=fixed))
  variables = calibrate(jax.device_get(state.variables), images)
  return dataclasses.replace(state, params=experiment.on_each_device(variables['params']))


def _overlay(fresh: Any, known: Any) -> Any:
  """Returns the tree `fresh`, with the leaves of `known` in place of its own where it has them."""
  if not isinstance(fresh, dict):
    # Copied, since several paths may start from one array and the step donates those of each.
    return jnp.copy(known)
  return {k: _overlay(leaf, known[k]) if k in known else leaf for k, leaf in fresh.items()}
