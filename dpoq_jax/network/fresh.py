"""Draws the variables that training starts with."""

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from dpoq_jax.core.names import LOGIT_SCALE, lateral_collection, path_name, statistics_collection
from dpoq_jax.network import checks, model_checks
from dpoq_jax.runtime import compiler

if TYPE_CHECKING:
  from dpoq_jax.network.onion_network import Onion


# One program, compiled fast: called outside `jit`, the draws of each shape were compiled apart and
# optimised, which took six times as long.
@functools.partial(compiler.Jitted, runs_once=True, static_argnums=0)
def variables(network: 'Onion', key: jax.Array, images: jax.Array) -> dict[str, Any]:
  """Returns fresh variables of a network; see `Onion.init`."""
  params: dict[str, Any] = {}
  statistics: dict[str, Any] = {}
  laterals: dict[str, Any] = {}
  for index, precision in enumerate(network.bits):
    written, handed_up = statistics_collection(precision), lateral_collection(precision)
    with (
      model_checks.said_in_a_line(network.model),
      model_checks.normalised_alike(train=False),
      model_checks.called_once() as kernels,
    ):
      logits, created = network.path(index).apply(
        laterals,
        images,
        rngs={'params': jax.random.fold_in(key, index)},
        mutable=['params', written, handed_up],
      )
    params[path_name(precision)] = created['params']
    model_checks.check_logits(network.model, logits, len(images))
    model_checks.check_names(network.model, created['params'], kernels, network.sum_logits)
    model_checks.check_alike(params[path_name(network.bits[0])], created['params'], precision)
    if network.sum_logits and index > 0:
      params[path_name(precision)][LOGIT_SCALE] = jnp.zeros((), network.options.parameter_dtype)
    checks.check_shared(
      created.get(written), created.get(handed_up),
      network.model, network.bits, network.options.laterals,
    )  # fmt: skip
    statistics[written] = created[written]
    laterals[handed_up] = created.get(handed_up, {})
  return {'params': params, **statistics}
