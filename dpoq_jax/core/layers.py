"""Builds the layers of one path: convolution on a ring's integers, clip, merge with lower paths.

A path is an ordinary network at one precision. Its layers find everything that concerns other
precisions at their own module path in Flax collections (`core.names`), so that model files never
mention them.
"""

from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from dpoq_jax import onion
from dpoq_jax.core import convolution, names, quantizers
from dpoq_jax.core.normalisation import normalisation
from dpoq_jax.core.quantizers import Activation
from dpoq_jax.core.spec import PathSpec


class OnionConv(nn.Module):
  """Convolves with this path's ring: of its latent, or of the shared integers once frozen.

  Parameters: `latent` [height, width, channels / groups, features], absent if the collection
  `onion` holds `kernel` of that shape (packed integers; the float kernel in a 32-bit network).

  Attributes:
    spec: the path.
    features: output channels.
    kernel_size: (height, width).
    strides: (vertical, horizontal).
    groups: groups of channels that are convolved apart; as many as channels is a depthwise
      convolution.
  """

  spec: PathSpec
  features: int
  kernel_size: tuple[int, int] = (3, 3)
  strides: tuple[int, int] = (1, 1)
  groups: int = 1

  @nn.compact
  def __call__(self, x: Activation) -> Activation:
    """Maps [batch, height, width, channels] to [batch, height', width', features] and a scale.

    Raises:
      ValueError: if `x` is no `Activation`, or channels cannot be parted into the groups.
    """
    kernel, scale = self._kernel(self._channels_of_group(x))
    y = convolution.convolve(x.code, kernel, self.strides, self.spec.options.compute_dtype)
    return Activation(y, x.scale * scale)

  def _channels_of_group(self, x: Activation) -> int:
    """Returns the channels that each output channel reads."""
    name = '/'.join(self.path) or type(self).__name__
    # Given a plain array, its floats would be taken for integers.
    if not isinstance(cast('Any', x), Activation):
      raise ValueError(
        f'{name} is given no Activation: what it convolves comes from PACT, which also stands in '
        'place of other activation functions, or from image_codes.'
      )
    channels, groups = x.code.shape[-1], self.groups
    # The convolution finds the groups by the shape of the kernel: rounded, they would be others.
    if groups < 1 or channels % groups or self.features % groups:
      raise ValueError(
        f'{name}: {channels} channels and {self.features} features cannot be parted into '
        f'groups={groups}.'
      )
    return channels // groups

  def _kernel(self, channels: int) -> tuple[jax.Array, float]:
    """Returns the operand of the convolution and the scale of its output."""
    spec, dtype = self.spec, self.spec.options.parameter_dtype
    frozen = self.has_variable(names.ONION, 'kernel')
    if frozen:
      stored: jax.Array = self.get_variable(names.ONION, 'kernel')
    else:
      shape = (*self.kernel_size, channels, self.features)
      stored = self.param('latent', nn.initializers.he_normal(), shape, dtype)
    if spec.ring_width == quantizers.FLOAT_WIDTH:
      return stored, 1.0
    if frozen:
      codes = onion.ring(stored, spec.bits, spec.index).astype(dtype)
    else:
      codes = spec.options.weight_quantizer(stored, spec.ring_width)
    return quantizers.integer_kernel(codes, spec.ring_width)


class PACT(nn.Module):
  """Clips to [0, alpha] and quantizes to the path's activation bits; signed, to [-alpha, alpha].

  Parameters: `clip`, the scalar alpha (none with 32-bit activations).

  Attributes:
    spec: the path.
    signed: whether negative values are kept, for activations without a ReLU.
  """

  spec: PathSpec
  signed: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> Activation:
    """Maps pre-activations of any shape to integer codes and their scale."""
    options, bits = self.spec.options, self.spec.activation_bits
    if bits == quantizers.FLOAT_WIDTH:
      return quantizers.pact(x, jnp.zeros((), x.dtype), bits, signed=self.signed)
    init = nn.initializers.constant(self.spec.clip_init)
    clip = self.param('clip', init, (), options.parameter_dtype)
    return quantizers.pact(x, clip, bits, signed=self.signed)


class ConvNorm(nn.Module):
  """Convolves, merges with lower paths and normalises: the building block of model files.

  Attributes:
    spec: the path.
    features: output channels.
    kernel_size: (height, width).
    strides: (vertical, horizontal).
    groups: groups of channels that are convolved apart.
    ends_block: whether it is the last one of a residual block or, in a model without these, of a
      stage; decides where paths hand up if they do so at `Laterals.BLOCK_ENDS` alone.
  """

  spec: PathSpec
  features: int
  kernel_size: tuple[int, int] = (3, 3)
  strides: tuple[int, int] = (1, 1)
  groups: int = 1
  ends_block: bool = False

  @nn.compact
  def __call__(self, x: Activation, train: bool) -> jax.Array:
    """Maps [batch, height, width, channels] to pre-activations [batch, height', width', features].

    Args:
      x: codes and scale, from `PACT`, `image_codes`, or pooling of codes.
      train: whether to normalise by the batch's statistics.
    """
    conv = OnionConv(
      self.spec, self.features, self.kernel_size, self.strides, self.groups, name='conv'
    )
    norm = normalisation(self.spec, name='norm', ends_block=self.ends_block)
    return norm(conv(x), train)
