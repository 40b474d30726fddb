"""What a cascade runs on the device: one path, all paths nested in conditionals, a copy of inputs.

Programs are compiled once for a network and a size, whichever cascade runs them.
"""

from collections.abc import Mapping
import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from dpoq_jax.runtime import compiler


class Network(Protocol):
  """What a cascade needs of a network: `dpoq_jax.network.onion_network.Onion`, or anything like it.

  Hashable: programs are kept for each.
  """

  @property
  def bits(self) -> tuple[int, ...]:
    """The bit list."""
    ...

  def run_path(self, variables: Any, index: int, images: Any, laterals: Any) -> Any:
    """Runs a path; see `dpoq_jax.network.onion_network.Onion.run_path`."""
    ...

  def variables_of_path(self, variables: Any, index: int) -> Any:
    """The variables that a path reads."""
    ...


class PathInputs(NamedTuple):
  """Inputs on the device with what was computed of them; the leading axis is inputs."""

  images: Any
  laterals: dict[str, Any]


def bucket(count: int) -> int:
  """The smallest power of two that is at least `count`."""
  return 1 << (count - 1).bit_length()


@functools.partial(compiler.Jitted, static_argnums=(0, 1))
def run_path(network: Network, index: int, variables: Any, inputs: PathInputs) -> Any:
  """Logits of a path, and what it hands up."""
  output = network.run_path(variables, index, inputs.images, inputs.laterals)
  return output.logits, output.laterals


@functools.partial(compiler.Jitted, static_argnums=1)
def first_inputs(inputs: PathInputs, size: int) -> PathInputs:
  """The first `size` inputs, so that `run_path` has one program for a size whatever the pool."""
  return jax.tree.map(lambda leaf: leaf[:size], inputs)


@functools.partial(compiler.Jitted, donate_argnums=0)
def copy_inputs(
  pool: PathInputs, inputs: PathInputs, indices: jax.Array, count: jax.Array, offset: jax.Array
) -> PathInputs:
  """Writes `inputs[indices[:count]]` to the pool, from `offset` on, in place.

  One program for any count: a loop of copies on CPU, where bytes are what costs; elsewhere a gather
  and a scatter of all of them that drops those beyond the count, as there launches are what costs.
  """

  def one_by_one(pool, inputs, indices, count, offset):
    def copy(i, pool):
      return jax.tree.map(
        lambda into, leaf: jax.lax.dynamic_update_slice_in_dim(
          into, jax.lax.dynamic_slice_in_dim(leaf, indices[i], 1), offset + i, 0
        ),
        pool,
        inputs,
      )

    return jax.lax.fori_loop(0, count, copy, pool)

  def at_once(pool, inputs, indices, count, offset):
    position = jnp.arange(len(indices))

    def copy(into, leaf):
      target = jnp.where(position < count, position + offset, len(into))
      return into.at[target].set(jnp.take(leaf, indices, axis=0, mode='clip'), mode='drop')

    return jax.tree.map(copy, pool, inputs)

  return jax.lax.platform_dependent(
    pool, inputs, indices, count, offset, cpu=one_by_one, default=at_once
  )


@functools.partial(compiler.Jitted, static_argnums=0)
def run_single(
  network: Network, variables: list[Any], image: jax.Array, limits: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Paths nested in conditionals: one dispatch, and laterals that never leave the program.

  Args:
    network: the network.
    variables: of each path.
    image: [1, height, width, channels].
    limits: float32 [precisions - 1, 2], threshold and temperature.

  Returns:
    Logits [precisions, 1, classes], zeros where nothing was run, and the index of the last path.
  """
  last = len(network.bits) - 1

  def climb(index: int, laterals: Mapping[str, Any]) -> tuple[jax.Array, jax.Array]:
    output = network.run_path(variables[index], index, image, laterals)
    logits, here = output.logits[None], jnp.int32(index)
    if index == last:
      return logits, here
    rest, reached = jax.lax.cond(
      _may_go_on(output.logits, *limits[index]),
      lambda: climb(index + 1, {**laterals, **output.laterals}),
      lambda: (jnp.zeros((last - index, *output.logits.shape), logits.dtype), here),
    )
    return jnp.concatenate([logits, rest]), reached

  return climb(0, {})


def _may_go_on(logits: jax.Array, threshold: jax.Array, temperature: jax.Array) -> jax.Array:
  """False only if the confidence is above the threshold by more than float32 could be wrong."""
  scaled = logits / temperature
  confidence = jnp.max(jax.nn.softmax(scaled))
  confidence = jnp.where(jnp.isfinite(confidence), confidence, 1 / logits.shape[-1])
  wrong = 1e-6 * (1 + confidence * (1 - confidence) * jnp.max(jnp.abs(scaled)))
  return ~(confidence >= threshold + wrong)
