"""Defines the programs that a cascade runs on the device.

There is one that runs a path on a part of a batch, and one that copies inputs between batches; that
of a small batch, all paths in one, is in `small_batch`. Each is compiled once for a network and its
sizes, whichever cascade runs it.
"""

from collections.abc import Mapping
import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from dpoq_jax.runtime import compiler


class PathOutput(Protocol):
  """Describes what a network's path returns."""

  @property
  def logits(self) -> jax.Array:
    """Returns the logits, float32 [batch, classes]."""
    ...

  @property
  def laterals(self) -> dict[str, Any]:
    """Returns what the path hands up, by collection, for the paths above it."""
    ...


class Network(Protocol):
  """Describes what a cascade needs of a network, as `dpoq_jax.network.onion_network.Onion` has it.

  A network is hashable, as its programs are kept under it.
  """

  @property
  def bits(self) -> tuple[int, ...]:
    """Returns the bit list."""
    ...

  def run_path(
    self, variables: Any, index: int, images: Any, laterals: Mapping[str, Any]
  ) -> PathOutput:
    """Runs a path; see `dpoq_jax.network.onion_network.Onion.run_path`."""
    ...

  def variables_of_path(self, variables: Any, index: int) -> Any:
    """Returns the variables that a path reads."""
    ...


class PathInputs(NamedTuple):
  """Holds a batch of inputs on the device, with what the lower paths handed up.

  Attributes:
    images: uint8 [batch, height, width, channels].
    laterals: arrays [batch, ...] of all lower paths, by collection.
  """

  images: jax.Array
  laterals: dict[str, Any]


def bucket(count: int) -> int:
  """Returns the smallest power of two that is at least `count`."""
  return 1 << (count - 1).bit_length()


def path_size(count: int) -> int:
  """Returns the size at which a path runs `count` inputs: a power of two, or three quarters of one.

  >>> [path_size(count) for count in (1, 3, 5, 9, 13, 24, 25)]
  [1, 3, 6, 12, 16, 24, 32]
  """
  power = bucket(count)
  return 3 * power // 4 if power >= 4 and count <= 3 * power // 4 else power


@functools.partial(compiler.Jitted, static_argnums=(0, 1, 4))
def run_path(
  network: Network, index: int, variables: Any, inputs: PathInputs, size: int
) -> tuple[jax.Array, dict[str, Any]]:
  """Returns the logits of a path on the first `size` inputs, and what it hands up of these.

  They are cut out in this program, where laterals are read: one of its own would write them anew.
  """

  def first(leaf: jax.Array) -> jax.Array:
    return leaf[:size]

  inputs = jax.tree.map(first, inputs)
  output = network.run_path(variables, index, inputs.images, inputs.laterals)
  return output.logits, output.laterals


@functools.partial(compiler.Jitted, donate_argnums=0)
def copy_inputs(
  pool: PathInputs, inputs: PathInputs, indices: jax.Array, count: jax.Array, offset: jax.Array
) -> PathInputs:
  """Copies the inputs of `indices[:count]` into the pool, from position `offset` on, in place.

  `count` is an operand, so that one program serves any number of inputs. On CPU, where the bytes
  that are moved take the time, it copies them one by one. Elsewhere, where every launch of a kernel
  takes time, it gathers and scatters all of `indices` at once and drops those beyond `count`.
  """

  def one_by_one(
    pool: PathInputs, inputs: PathInputs, indices: jax.Array, count: jax.Array, offset: jax.Array
  ) -> PathInputs:
    def copy(i: jax.Array, pool: PathInputs) -> PathInputs:
      def copy_leaf(into: jax.Array, leaf: jax.Array) -> jax.Array:
        one = jax.lax.dynamic_slice_in_dim(leaf, indices[i], 1)
        return jax.lax.dynamic_update_slice_in_dim(into, one, offset + i, 0)

      return jax.tree.map(copy_leaf, pool, inputs)

    return jax.lax.fori_loop(0, count, copy, pool)

  def at_once(
    pool: PathInputs, inputs: PathInputs, indices: jax.Array, count: jax.Array, offset: jax.Array
  ) -> PathInputs:
    position = jnp.arange(len(indices))

    def copy_leaf(into: jax.Array, leaf: jax.Array) -> jax.Array:
      target = jnp.where(position < count, position + offset, len(into))
      return into.at[target].set(jnp.take(leaf, indices, axis=0, mode='clip'), mode='drop')

    return jax.tree.map(copy_leaf, pool, inputs)

  return jax.lax.platform_dependent(
    pool, inputs, indices, count, offset, cpu=one_by_one, default=at_once
  )
