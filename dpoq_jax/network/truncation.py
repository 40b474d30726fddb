"""Cuts the low bits off an individual network, and measures its batch-norm statistics anew.

What a user tries first in place of training for several precisions.
"""

from collections.abc import Iterable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from dpoq_jax import onion
from dpoq_jax.core import quantizers
from dpoq_jax.core.names import ONION, path_name, statistics_collection
from dpoq_jax.network.onion_network import Onion
from dpoq_jax.network.trainable import Variables


def truncated(network: Onion, frozen: Variables, to: int) -> tuple[Onion, dict[str, Any]]:
  """Cuts the low bits off the weights of an individual network, and keeps everything else.

  Args:
    network: a network of one precision.
    frozen: its variables, as `freeze` returns them.
    to: bits to keep, at most its own.

  Returns:
    The network of that precision and its variables.

  Raises:
    ValueError: for a network of several precisions, or of floats, or one that has not so many bits.
  """
  if len(network.bits) != 1 or quantizers.FLOAT_WIDTH in network.bits:
    raise ValueError(f'bits={network.bits}: one precision of integers can be truncated.')
  (bits,) = network.bits
  if not 1 <= to <= bits:
    raise ValueError(f'to={to}: a network of {bits} bits is truncated to 1 to {bits}.')
  name, statistics = path_name(bits), statistics_collection(bits)
  variables = {
    'params': {path_name(to): frozen['params'][name]},
    statistics_collection(to): frozen[statistics],
    ONION: jax.tree.map(lambda stored: truncate_kernel(stored, bits, to), frozen[ONION]),
  }
  return dataclasses.replace(network, bits=(to,)), variables


def reestimated(network: Onion, frozen: Variables, batches: Iterable[jax.Array]) -> dict[str, Any]:
  """Measures batch-norm statistics anew: the mean over batches of each batch's own.

  Args:
    network: a network of one precision.
    frozen: its variables.
    batches: uint8 [batch, height, width, channels] each, of training images.

  Returns:
    `frozen` with these statistics.

  Raises:
    ValueError: if there are no batches.
  """
  # With no memory the statistics after a step are those of its batch.
  options = dataclasses.replace(network.options, momentum=0.0)
  forgetful = dataclasses.replace(network, options=options)

  @jax.jit
  def statistics_of(images: jax.Array) -> dict[str, Any]:
    return forgetful.run_path(frozen, 0, images, train=True).statistics

  total, count = None, 0
  for images in batches:
    fresh = statistics_of(images)
    total = fresh if total is None else jax.tree.map(jnp.add, total, fresh)
    count += 1
  if total is None:
    raise ValueError('no batches to estimate statistics from.')
  return {**frozen, **jax.tree.map(lambda leaf: leaf / count, total)}


def truncate_kernel(stored: jax.Array, bits: int, to: int) -> jax.Array:
  """Returns the packed integers of `to` bits in those of one precision of `bits`."""
  return onion.truncate(stored, (bits,), to=to).astype(onion.packed_dtype((to,)))
