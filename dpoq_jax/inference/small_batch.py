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
  inputs, chosen = PathInputs(images, output.laterals), jnp.arange(len(images)) < count
  rest = (variables, limits, inputs, output.logits, chosen)
  higher, reached = _run_above(network, 0, *rest)
  return jnp.concatenate([output.logits[None], higher]), reached


def _run_above(
  network: Network,
  index: int,
  variables: Sequence[Any],
  limits: jax.Array,
  inputs: PathInputs,
  logits: jax.Array,
  chosen: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Runs the paths above one, if any of the inputs that it was chosen for goes on.

  That is one conditional around all of them, so that a batch that leaves here makes no laterals of
  theirs, not even zeros, and no path stands twice in the program.

  Args:
    network: the network.
    index: the path below, from 0.
    variables: the variables of each path.
    limits: as in `run_small_batch`.
    inputs: with all that the paths so far handed up.
    logits: [batch, classes], of the path below.
    chosen: bool [batch], the inputs that the path below was run on.

  Returns:
    Logits [paths above, batch, classes], and the index of the last path of each input.
  """
  none = jnp.zeros((len(network.bits) - index - 1, *logits.shape), logits.dtype)
  here = jnp.full(len(chosen), index, jnp.int32)
  if not len(none):
    return none, here
  goes_on = chosen & _may_go_on(logits, *limits[index])

  def run() -> tuple[jax.Array, jax.Array]:
    above = index + 1
    own, wider = _run_some(network, variables[above], above, inputs, goes_on)
    higher, reached = _run_above(network, above, variables, limits, wider, own, goes_on)
    return jnp.concatenate([own[None], higher]), jnp.where(goes_on, reached, here)

  return jax.lax.cond(jnp.any(goes_on), run, lambda: (none, here))


def _run_some(
  network: Network, variables: Any, index: int, inputs: PathInputs, chosen: jax.Array
) -> tuple[jax.Array, PathInputs]:
  """Runs a path on the chosen inputs, of which there is one at least.

  Returns:
    Logits [batch, classes], and the inputs with what the path hands up; both are of no meaning
    elsewhere.
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

  smaller = _sizes(batch)[:-1]
  programs: list[Callable[[], Any]] = [
    *(functools.partial(run_first, size) for size in smaller), run_all
  ]  # fmt: skip
  which = jnp.searchsorted(jnp.array(_sizes(batch)), jnp.sum(chosen))
  logits, laterals = jax.lax.switch(which, programs)
  return logits, PathInputs(inputs.images, {**inputs.laterals, **laterals})


def padded(batch: int, count: int) -> int:
  """Returns the size at which a path above the lowest runs `count` inputs of a batch."""
  return next(size for size in (0, *_sizes(batch)) if size >= count)


def _sizes(batch: int) -> list[int]:
  """Returns the sizes that a path may run at: parts of the batch down to an eighth.

  Each is a copy of the path in the program, which has to be compiled.
  """
  return sorted({max(1, batch * eighths // 8) for eighths in (1, 2, 3, 4, 6, 8)})


def _may_go_on(logits: jax.Array, threshold: jax.Array, temperature: jax.Array) -> jax.Array:
  """Tells of each input whether it may go on, bool [batch].

  It may not only if its confidence exceeds the threshold by more than float32 may be off.
  """
  scaled = logits / temperature
  confidence = jnp.max(jax.nn.softmax(scaled), axis=-1)
  confidence = jnp.where(jnp.isfinite(confidence), confidence, 1 / logits.shape[-1])
  largest = jnp.max(jnp.abs(scaled), axis=-1)
  return ~(confidence >= threshold + 1e-6 * (1 + confidence * (1 - confidence) * largest))
