"""Makes networks that are not trained, but compute as trained ones do, to be timed."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dpoq_jax.core.spec import Laterals, LayerOptions
from dpoq_jax.network import onion_network
from dpoq_jax.runtime import compiler


def build(
  model: nn.Module,
  bits: tuple[int, ...],
  activation_bits: int,
  laterals: Laterals = Laterals.EVERY_LAYER,
) -> onion_network.Onion:
  """Returns a network whose paths read what lower ones hand up, though it is not trained."""
  options = LayerOptions(shift_init=0.3, laterals=laterals)
  return onion_network.Onion(model, bits, activation_bits, options=options)


def variables(network: onion_network.Onion, images: np.ndarray) -> dict[str, Any]:
  """Returns frozen variables of a network, with statistics of the first images."""
  jit = functools.partial(jax.jit, compiler_options=compiler.once_options())
  pixels = jnp.asarray(images[:16])
  started = jit(network.init)(jax.random.key(0), pixels)
  update = jit(lambda created: network.apply_and_update(created, pixels)[1])
  return jax.device_get(network.freeze(started | update(started)))
