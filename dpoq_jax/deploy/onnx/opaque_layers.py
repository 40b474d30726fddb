"""Puts one primitive in place of each layer of a model, so that a trace shows what joins them."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
from jax.core import ShapedArray
from jax.extend import core as jax_core
import jax.numpy as jnp

from dpoq_jax.core import layers, quantizers
from dpoq_jax.core.quantizers import Activation


class UnsupportedStepError(ValueError):
  """Refuses a model file that does something between its layers that cannot be exported."""


_LAYER = jax_core.Primitive('dpoq_layer')
# Of the values that a PACT gives; kept apart, since only their product is known to an exporter.
_CODES = jax_core.Primitive('dpoq_codes')
_SCALE = jax_core.Primitive('dpoq_scale')


@_LAYER.def_abstract_eval
def _layer_shape(x: ShapedArray, *, shape: tuple[int, ...], **_: Any) -> ShapedArray:
  """Returns shape and dtype of a layer's result."""
  return ShapedArray(shape, x.dtype)


@_CODES.def_abstract_eval
def _codes_shape(x: ShapedArray) -> ShapedArray:
  """Returns shape and dtype of codes."""
  return ShapedArray(x.shape, x.dtype)


@_SCALE.def_abstract_eval
def _scale_shape(x: ShapedArray) -> ShapedArray:
  """Returns shape and dtype of a scale."""
  return ShapedArray((), x.dtype)


def opaque(
  next_call: Callable[..., Any],
  args: tuple[Any, ...],
  kwargs: dict[str, Any],
  context: nn.module.InterceptorContext,
) -> Any:
  """Puts one primitive, which says which layer it is, in place of a layer's own computation.

  Raises:
    UnsupportedStepError: for a `Dense` that is given more than a vector of each image.
  """
  module = context.module
  if context.method_name != '__call__':
    return next_call(*args, **kwargs)
  name = '/'.join(module.path)
  match module:
    case layers.ConvNorm():
      x = args[0].value
      size = [
        # `convolution.convolve` pads by half the kernel.
        (n + (k - 1) // 2 + k // 2 - k) // s + 1
        for n, k, s in zip(x.shape[1:3], module.kernel_size, module.strides, strict=True)
      ]
      shape = (x.shape[0], *size, module.features)
      options = (('strides', module.strides), ('groups', module.groups))
      return _LAYER.bind(x, kind='conv', shape=shape, name=name, options=options)
    case layers.PACT():
      (x,) = args
      options = (('signed', module.signed),)
      y = _LAYER.bind(x, kind='pact', shape=x.shape, name=name, options=options)
      if module.spec.activation_bits == quantizers.FLOAT_WIDTH:
        return Activation(y, jnp.ones((), y.dtype))
      # The exporter chooses the scale between the two.
      return Activation(_CODES.bind(y), _SCALE.bind(y))
    case nn.Dense():
      (x,) = args
      if x.ndim != 2:
        raise UnsupportedStepError(
          f'a model with a Dense ({name}) on all positions cannot be exported: use a 1x1 ConvNorm.'
        )
      shape = (x.shape[0], module.features)
      return _LAYER.bind(x, kind='dense', shape=shape, name=name, options=())
    case _:
      return next_call(*args, **kwargs)
