"""Runs a single input up to its exit in one program, for the lowest latency."""

from collections.abc import Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp

from dpoq_jax.inference.path_programs import Network
from dpoq_jax.runtime import compiler


@functools.partial(compiler.Jitted, static_argnums=0)
def run_single_input(
  network: Network, variables: Sequence[Any], image: jax.Array, limits: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Runs one input up to its exit: one dispatch, with laterals that never leave the program.

  Every path but the lowest is in a conditional of the path below it.

  Args:
    network: the network.
    variables: the variables of each path.
    image: uint8 [1, height, width, channels].
    limits: float32 [precisions - 1, 2], threshold and temperature of every precision but the last.

  Returns:
    Logits [precisions, 1, classes], zeros for paths that were not run, and the index of the last
    path that was.
  """
  last = len(network.bits) - 1

  def climb(index: int, laterals: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
    output = network.run_path(variables[index], index, image, laterals)
    logits, here = output.logits[None], jnp.int32(index)
    if index == last:
      return logits, here

    def go_on() -> tuple[jax.Array, jax.Array]:
      return climb(index + 1, {**laterals, **output.laterals})

    def stop() -> tuple[jax.Array, jax.Array]:
      return jnp.zeros((last - index, *output.logits.shape), logits.dtype), here

    rest, reached = jax.lax.cond(_may_go_on(output.logits, *limits[index]), go_on, stop)
    return jnp.concatenate([logits, rest]), reached

  return climb(0, {})


def _may_go_on(logits: jax.Array, threshold: jax.Array, temperature: jax.Array) -> jax.Array:
  """Returns False only if the confidence exceeds the threshold by more than float32 may be off."""
  scaled = logits / temperature
  confidence = jnp.max(jax.nn.softmax(scaled))
  confidence = jnp.where(jnp.isfinite(confidence), confidence, 1 / logits.shape[-1])
  error = 1e-6 * (1 + confidence * (1 - confidence) * jnp.max(jnp.abs(scaled)))
  return ~(confidence >= threshold + error)
