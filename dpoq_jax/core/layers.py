"""The layers of one path: convolution on a ring's integers, merge with what lower paths hand up.

A path is an ordinary network at one precision. Its layers find everything that concerns other
precisions at their own module path in Flax collections, so that model files never mention them:

    params       this path's own parameters
    psbn_B       running statistics of precision B, written in training
    lateral_B    what path B hands up at this layer: read by higher paths, written by path B
    onion        once frozen: the integers shared by all precisions
"""

import dataclasses
import enum
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dpoq_jax import onion
from dpoq_jax.core import normalisation, quantizers
from dpoq_jax.core.normalisation import Standardised, merge
from dpoq_jax.core.quantizers import Activation


class Merge(enum.Enum):
  """How a path takes in what lower paths hand up."""

  PSBN = 'psbn'
  """Precision-shift batch norm (Figure 2b): normalised features, one affine map for each pair."""
  VANILLA = 'vanilla'
  """The nesting identity on convolution outputs (Figure 2a), for the ablation."""


@dataclasses.dataclass(frozen=True)
class LayerOptions:
  """Choices that all paths and layers of an onion share.

  Attributes:
    weight_quantizer: latents to codes; see `quantizers.WEIGHT_QUANTIZERS`.
    merge: how a path takes in what lower paths hand up.
    clip_init: PACT's alpha at the start, in units of its input.
    shift_init: the precision shifts gamma_{j->k} at the start.
    momentum: of the running averages, weight of the old value, in [0, 1).
    epsilon: added to the variance.
    compute_dtype: of the convolutions' operands. bfloat16 is exact for rings and activations of at
      most 8 bits only.
  """

  weight_quantizer: quantizers.WeightQuantizer = quantizers.dorefa
  merge: Merge = Merge.PSBN
  clip_init: float = 6.0
  shift_init: float = 0.0
  momentum: float = 0.9
  epsilon: float = 1e-5
  compute_dtype: Any = jnp.float32

  @property
  def parameter_dtype(self) -> Any:
    """Dtype of parameters, statistics and everything but the operands: at least float32."""
    return jnp.promote_types(self.compute_dtype, jnp.float32)


@dataclasses.dataclass(frozen=True)
class PathSpec:
  """Which path of which onion a module belongs to.

  Attributes:
    bits: the bit list of the onion.
    index: which precision this path is, from 0.
    activation_bits: 1 to 16, or 32 for a plain ReLU.
    options: see `LayerOptions`.
  """

  bits: tuple[int, ...]
  index: int
  activation_bits: int
  options: LayerOptions = LayerOptions()

  @property
  def precision(self) -> int:
    """Bits of the whole weight at this path, b_k."""
    return self.bits[self.index]

  @property
  def ring_width(self) -> int:
    """Bits that this path adds, r_k."""
    return onion.ring_widths(self.bits)[self.index]


def statistics_collection(precision: int) -> str:
  """Name of the collection of running statistics of a precision."""
  return f'psbn_{precision}'


def lateral_collection(precision: int) -> str:
  """Name of the collection of what the path of a precision hands up."""
  return f'lateral_{precision}'


class OnionConv(nn.Module):
  """Convolution with this path's ring: of its latent, or of the shared integers once frozen.

  Parameters: `latent` [height, width, channels / groups, features], absent if the collection
  `onion` holds `kernel` of that shape (packed integers; the float kernel in a 32-bit network).

  Attributes:
    spec: the path.
    features: output channels.
    kernel_size: (height, width).
    strides: (vertical, horizontal).
    groups: of channels, convolved apart; as many as channels is a depthwise convolution.
  """

  spec: PathSpec
  features: int
  kernel_size: tuple[int, int] = (3, 3)
  strides: tuple[int, int] = (1, 1)
  groups: int = 1

  @nn.compact
  def __call__(self, x: Activation) -> Activation:
    """[batch, height, width, channels] to [batch, height', width', features], scale apart."""
    kernel, scale = self._kernel(x.code.shape[-1] // self.groups)
    y = quantizers.convolve(x.code, kernel, self.strides, self.spec.options.compute_dtype)
    return Activation(y, x.scale * scale)

  def _kernel(self, channels: int) -> tuple[jax.Array, float]:
    """The operand of the convolution and the scale of its output."""
    spec, dtype = self.spec, self.spec.options.parameter_dtype
    frozen = self.has_variable('onion', 'kernel')
    if frozen:
      stored = self.get_variable('onion', 'kernel')
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
  """

  spec: PathSpec
  signed: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> Activation:
    """Pre-activations of any shape to codes and scale."""
    options, bits = self.spec.options, self.spec.activation_bits
    if bits == quantizers.FLOAT_WIDTH:
      return quantizers.pact(x, jnp.zeros((), x.dtype), bits, signed=self.signed)
    init = nn.initializers.constant(options.clip_init)
    clip = self.param('clip', init, (), options.parameter_dtype)
    return quantizers.pact(x, clip, bits, signed=self.signed)


class _Normalisation(nn.Module):
  """Shared by both merges: `(y - mean) / sqrt(var + eps)` per channel, and this path's statistics.

  Statistics are the batch's in training, the running averages of `psbn_B` (`mean`, `var`, both
  [channels]; biased variance) in evaluation. With a batch sharded over devices they are global.
  """

  spec: PathSpec

  def normalise(self, y: Activation, train: bool) -> Standardised:
    """`z` of what a convolution gives; multiplied out in evaluation, in training not."""
    options, collection = self.spec.options, statistics_collection(self.spec.precision)
    shape, dtype = (y.code.shape[-1],), options.parameter_dtype
    mean = self.variable(collection, 'mean', jnp.zeros, shape, dtype)
    var = self.variable(collection, 'var', jnp.ones, shape, dtype)
    if not train:
      z = (y.value - mean.value) * jax.lax.rsqrt(var.value + options.epsilon)
      return Standardised(z)
    batch_mean, batch_var = normalisation.moments(y.code)
    scaled_var = batch_var * jnp.square(y.scale)
    if self.is_mutable_collection(collection) and not self.is_initializing():
      for running, batch in ((mean, batch_mean * y.scale), (var, scaled_var)):
        fresh = jax.lax.stop_gradient(batch)
        running.value = options.momentum * running.value + (1 - options.momentum) * fresh
    factor = y.scale * jax.lax.rsqrt(scaled_var + options.epsilon)
    return Standardised(y.code, batch_mean, factor)

  def hand_up(self, features: jax.Array | Standardised) -> None:
    """Offers `features` to the paths above; nothing is kept unless the caller asks for it."""
    collection = lateral_collection(self.spec.precision)
    if self.is_mutable_collection(collection):
      self.put_variable(collection, 'z', features)

  def handed_up(self, index: int) -> Any:
    """What path `index` handed up at this layer."""
    return self.get_variable(lateral_collection(self.spec.bits[index]), 'z')

  def channel_parameter(self, name: str, init: float, channels: int) -> jax.Array:
    initializer = nn.initializers.constant(init)
    return self.param(name, initializer, (channels,), self.spec.options.parameter_dtype)


class PrecisionShiftBatchNorm(_Normalisation):
  """PSBN (eq. 8, Figure 2b): `gamma_k z_k + sum_{j<k} gamma_{j->k} z_j + beta_k`.

  Hands up `z_k`, in training as a `Standardised`. Parameters, all [channels]: `scale` (gamma_k),
  `bias` (beta_k), `shift_from_B` (gamma_{j->k}) for every lower precision B.
  """

  @nn.compact
  def __call__(self, y: Activation, train: bool) -> jax.Array:
    """[batch, height, width, channels] to the same."""
    channels, shift_init = y.code.shape[-1], self.spec.options.shift_init
    z = self.normalise(y, train)
    self.hand_up(z if train else z.tensor)
    terms, weights = [z], [self.channel_parameter('scale', 1.0, channels)]
    for j, precision in enumerate(self.spec.bits[: self.spec.index]):
      lower = self.handed_up(j)
      terms.append(lower if isinstance(lower, Standardised) else Standardised(lower))
      weights.append(self.channel_parameter(f'shift_from_{precision}', shift_init, channels))
    return merge(terms, weights, self.channel_parameter('bias', 0.0, channels))


class VanillaMergeBatchNorm(_Normalisation):
  """Figure 2a, for the ablation: `o_k = s_l o_{k-1} + s_r y_k`, then an ordinary batch norm.

  The factors are those of the nesting identity. Hands up `o_k`; reads the path just below alone.
  """

  @nn.compact
  def __call__(self, y: Activation, train: bool) -> jax.Array:
    """[batch, height, width, channels] to the same."""
    index, bits = self.spec.index, self.spec.bits
    if index > 0:
      lower, own = onion.merge_factors(bits[index - 1], self.spec.ring_width)
      merged = lower * self.handed_up(index - 1) + own * y.value
      y = Activation(merged, jnp.ones((), merged.dtype))
    self.hand_up(y.value)
    z, channels = self.normalise(y, train), y.code.shape[-1]
    scale = self.channel_parameter('scale', 1.0, channels)
    return merge([z], [scale], self.channel_parameter('bias', 0.0, channels))


_NORMALISATIONS = {Merge.PSBN: PrecisionShiftBatchNorm, Merge.VANILLA: VanillaMergeBatchNorm}


class ConvNorm(nn.Module):
  """`OnionConv`, then the onion's merge and normalisation: the building block of model files."""

  spec: PathSpec
  features: int
  kernel_size: tuple[int, int] = (3, 3)
  strides: tuple[int, int] = (1, 1)
  groups: int = 1

  @nn.compact
  def __call__(self, x: Activation, train: bool) -> jax.Array:
    """[batch, height, width, channels] to [batch, height', width', features], not yet clipped."""
    conv = OnionConv(
      self.spec, self.features, self.kernel_size, self.strides, self.groups, name='conv'
    )
    norm = _NORMALISATIONS[self.spec.options.merge](self.spec, name='norm')
    return norm(conv(x), train)
