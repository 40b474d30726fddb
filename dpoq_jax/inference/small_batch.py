"""Runs a small batch up to the exits of its inputs in one program, for the lowest latency."""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp

from dpoq_jax.inference.path_programs import Network, PathInputs
from dpoq_jax.runtime import compiler


@functools.partial(compiler.Jitted, static_argnums=0)
def run_small_batch(
  network: Network,
  variables: Sequence[Any],
  images: jax.Array,
  count: jax.Array,
  limits: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Runs inputs up to their exits: one dispatch, with laterals that never leave the program.

  Every path but the lowest is run on those that go on, rounded up to the next of a few sizes.

  Args:
    network: the network.
    variables: the variables of each path.
    images: uint8 [batch, height, width, channels].
    count: int32, how many of these are inputs; the others are padding.
    limits: float32 [precisions - 1, 2], threshold and temperature of every precision but the last.

  Returns:
    Logits [precisions, batch, classes], of no meaning where an input was not run, and the index of
    the last path that each input was run on, int32 [batch].
  """
  output = network.run_path(variables[0], 0, images, {})
  inputs, logits = PathInputs(images, output.laterals), [output.logits]
  reached = jnp.zeros(len(images), jnp.int32)
  for index in range(1, len(network.bits)):
    goes_on = _may_go_on(logits[-1], *limits[index - 1])
    goes_on &= (reached == index - 1) & (jnp.arange(len(images)) < count)
    reached = jnp.where(goes_on, index, reached)
    higher, inputs = _run_some(network, variables[index], index, inputs, goes_on)
    logits.append(higher)
  return jnp.stack(logits), reached


def _run_some(
  network: Network, variables: Any, index: int, inputs: PathInputs, chosen: jax.Array
) -> tuple[jax.Array, PathInputs]:
  """Runs a path on the chosen inputs.

  Returns:
    Logits [batch, classes], and the inputs with what the path hands up; both are zeros elsewhere.
  """
  batch, order = len(chosen), jnp.argsort(~chosen, stable=True)

  def run_all() -> tuple[jax.Array, dict[str, Any]]:
    output = network.run_path(variables, index, inputs.images, inputs.laterals)
    return output.logits, output.laterals

  def run_first(size: int) -> tuple[jax.Array, dict[str, Any]]:
    rows = order[:size]

    def gathered(leaf: jax.Array) -> jax.Array:
      return jnp.take(leaf, rows, axis=0)

    def scattered(leaf: jax.Array) -> jax.Array:
      return jnp.zeros((batch, *leaf.shape[1:]), leaf.dtype).at[rows].set(leaf)

    part = jax.tree.map(gathered, inputs)
    output = network.run_path(variables, index, part.images, part.laterals)
    return jax.tree.map(scattered, (output.logits, output.laterals))

  def run_none() -> tuple[jax.Array, dict[str, Any]]:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(run_all))

  smaller = _sizes(batch)[1:-1]
  programs: list[Callable[[], Any]] = [
    run_none, *(functools.partial(run_first, size) for size in smaller), run_all
  ]  # fmt: skip
  which = jnp.searchsorted(jnp.array(_sizes(batch)), jnp.sum(chosen))
  logits, laterals = jax.lax.switch(which, programs)
  return logits, PathInputs(inputs.images, {**inputs.laterals, **laterals})


def padded(batch: int, count: int) -> int:
  """Returns the size at which a path above the lowest runs `count` inputs of a batch."""
  return next(size for size in _sizes(batch) if size >= count)


def _sizes(batch: int) -> list[int]:
  """Returns the sizes that a path may run at: none, and parts of the batch down to an eighth.

  Each but 0 is a copy of the path in the program, which has to be compiled.
  """
  return sorted({0, *(batch >> halvings for halvings in range(4))})


def _may_go_on(logits: jax.Array, threshold: jax.Array, temperature: jax.Array) -> jax.Array:
  """Tells of each input whether it may go on, bool [batch].

  It may not only if its confidence exceeds the threshold by more than float32 may be off.
  """
  scaled = logits / temperature
  confidence = jnp.max(jax.nn.softmax(scaled), axis=-1)
  confidence = jnp.where(jnp.isfinite(confidence), confidence, 1 / logits.shape[-1])
  largest = jnp.max(jnp.abs(scaled), axis=-1)
  return ~(confidence >= threshold + 1e-6 * (1 + confidence * (1 - confidence) * largest))
