"""Chooses the PACT clips that training starts with from a batch of images.

A clip is the one number of an activation that has no natural first value: it should follow what
comes in, and how many levels there are. For each activation it is the clip of least mean squared
error between what comes in and what is made of it, found path by path and layer by layer, each on
what the clips before it let through.
"""

from typing import Any

from flax import traverse_util
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dpoq_jax.core import layers, quantizers
from dpoq_jax.core.names import is_companion, path_name
from dpoq_jax.network import trees
from dpoq_jax.network.trainable import TrainableNetwork, Variables

# Clips that are tried, as shares of the largest input.
_CANDIDATES = np.linspace(0.02, 1.0, 50)


def least_error_clip(x: jax.Array, bits: int, *, signed: bool = False) -> jax.Array:
  """Returns the clip, scalar, that quantizes `x` by PACT with the least mean squared error.

  It is one of 50 shares of the largest input: 0 if no input is positive (signed: if all are 0).

  Args:
    x: pre-activations, float, any shape; negative ones are 0 in a ReLU, and no error of the clip.
    bits: width of the activation, 1 to 16.
    signed: whether negative values are kept.
  """
  wanted = x if signed else jax.nn.relu(x)
  candidates = jnp.max(jnp.abs(wanted)) * jnp.asarray(_CANDIDATES, x.dtype)

  def error(clip: jax.Array) -> jax.Array:
    return jnp.mean(jnp.square(quantizers.pact(x, clip, bits, signed=signed).value - wanted))

  return candidates[jnp.argmin(jax.lax.map(error, candidates))]


def calibrate(
  network: TrainableNetwork, variables: Variables, images: jax.Array, *, fixed: int = 0
) -> dict[str, Any]:
  """Returns variables with the clips of every path, and of its companions, set from a batch.

  Args:
    network: network to be trained.
    variables: its fresh variables; the running statistics stay as they are.
    images: uint8 [batch, height, width, channels].
    fixed: number of the lowest paths that stay as they are.
  """
  params: dict[str, Any] = dict(variables['params'])
  laterals: dict[str, Any] = {}
  for index, precision in enumerate(network.bits):
    if index < fixed:
      laterals |= network.run_path(variables, index, images, laterals).laterals
      continue
    found: dict[tuple[str, ...], jax.Array] = {}

    def choose(
      call: Any,
      args: tuple[Any, ...],
      kwargs: dict[str, Any],
      context: nn.module.InterceptorContext,
      found: dict[tuple[str, ...], jax.Array] = found,
    ) -> Any:
      module = context.module
      if not isinstance(module, layers.PACT) or context.method_name != '__call__':
        return call(*args, **kwargs)
      bits = module.spec.activation_bits
      if bits == quantizers.FLOAT_WIDTH:
        return call(*args, **kwargs)
      clip = least_error_clip(args[0], bits, signed=module.signed)
      # Where nothing comes in there is nothing to choose from.
      clip = jnp.where(clip > 0, clip, jnp.asarray(module.spec.clip_init, clip.dtype))
      found[*module.path, 'clip'] = clip
      return quantizers.pact(args[0], clip, bits, signed=module.signed)

    with nn.intercept_methods(choose):
      output = network.run_path(variables, index, images, laterals, train=True)
    laterals |= output.laterals
    # Companions see about what their path sees.
    own = [path_name(precision)]
    own += [name for name in params if is_companion(name, precision)]
    for name in own:
      params[name] = traverse_util.unflatten_dict(trees.flatten(params[name]) | found)
  return {**variables, 'params': params}
