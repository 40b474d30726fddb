"""Starting from another run: a ring added to a shorter bit list, or all paths from a float network.

Adding a ring keeps the paths below as they are, parameters and running statistics (section 5 of the
paper): afterwards the old precisions' logits are what they were, bit for bit.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from dpoq_jax import config as config_lib
from dpoq_jax.core import quantizers
from dpoq_jax.core.names import path_name, statistics_collection
from dpoq_jax.runtime import workdir as workdir_lib
from dpoq_jax.training import experiment, restore
from dpoq_jax.training import train_step as state_lib

_FLOAT = (quantizers.FLOAT_WIDTH,)

# What a path is made of. A float network has no quantized activations, weights or merge.
_SHARED = ('model.name', 'model.depth', 'model.width', 'quantization.sharing')
_QUANTIZED = (
  'quantization.activation_bits',
  'quantization.weight_quantizer',
  'quantization.merge',
)


def check(setup: experiment.Experiment) -> None:
  """Raises unless `config.init_from` is a run that this one can start from.

  Raises:
    FileNotFoundError: if there is no run.
    ConfigError: if its bit list does not begin this one, or its network is another.
  """
  if setup.config.init_from is None:
    return
  source = pathlib.Path(setup.config.init_from)
  theirs, facts = workdir_lib.read_config(source), workdir_lib.read_dataset(source)
  bits, wanted = theirs.quantization.bits, setup.network.bits
  if bits != _FLOAT and (len(bits) >= len(wanted) or wanted[: len(bits)] != bits):
    raise config_lib.ConfigError(
      f'config.init_from={source}: its bits {bits} do not begin {wanted}; a ring can only be added '
      'above those there are.'
    )
  fields = _SHARED if bits == _FLOAT else _SHARED + _QUANTIZED
  changed = config_lib.differences(theirs, setup.config, apart=workdir_lib.MAY_CHANGE_ON_RESUME)
  if changed := [each for each in changed if each.partition(':')[0] in fields]:
    raise config_lib.ConfigError(
      f'config.init_from={source} holds another network ({"; ".join(changed)}).'
    )
  ours = setup.dataset_facts
  if (facts.image_shape, len(facts.class_names)) != (ours.image_shape, len(ours.class_names)):
    raise config_lib.ConfigError(
      f'config.init_from={source} was trained on {len(facts.class_names)} classes of images '
      f'{facts.image_shape}, this data set has {len(ours.class_names)} of {ours.image_shape}.'
    )


def initial_state(setup: experiment.Experiment) -> tuple[state_lib.TrainState, int]:
  """The state at step 0, and how many of the lowest paths are to stay as they are.

  Raises:
    FileNotFoundError, ConfigError, CheckpointError: see `check`, `trained.load`.
  """
  state = setup.create_state()
  if setup.config.init_from is None:
    return state, 0
  check(setup)
  source = restore.load_latents(pathlib.Path(setup.config.init_from))
  variables: dict[str, Any] = {**state.variables, 'params': {**state.params}}
  bits = source.network.bits
  for precision in setup.network.bits if bits == _FLOAT else bits:
    of = bits[0] if bits == _FLOAT else precision
    name, statistics = path_name(precision), statistics_collection(precision)
    # What the float network does not have, clips and shifts, starts as in a fresh path.
    variables['params'][name] = _overlay(
      variables['params'][name], source.variables['params'][path_name(of)]
    )
    variables[statistics] = jax.tree.map(jnp.copy, source.variables[statistics_collection(of)])
  params = variables.pop('params')
  started = dataclasses.replace(state, params=params, collections=variables)
  return setup.on_each_device(started), 0 if bits == _FLOAT else len(bits)


def _overlay(fresh: Any, known: Any) -> Any:
  """`fresh` with the leaves that `known` has."""
  if not isinstance(fresh, dict):
    # Several paths may start from one array; the step takes each for itself.
    return jnp.copy(known)
  return {k: _overlay(leaf, known[k]) if k in known else leaf for k, leaf in fresh.items()}
