"""Normalises what a convolution gives and merges it with what lower paths hand up (eq. 8).

Training is bound by memory: between two convolutions, time goes into reading and writing tensors of
[batch, height, width, channels]. So in training a normalised tensor is not multiplied out. It is
handed on as `Normalised`, a tensor with a mean and a factor for each channel, and a path's whole
merge is one affine map of such tensors. The backward rules below are our own: the sums over the
batch that the gradients of gamma and beta need are also all that the gradient through the batch's
statistics needs, so each tensor is read once for both. Autodiff of the plain form makes three sums.
"""

from collections.abc import Sequence
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dpoq_jax import onion
from dpoq_jax.core.names import lateral_collection, shift_name, statistics_collection
from dpoq_jax.core.quantizers import Activation
from dpoq_jax.core.spec import Laterals, Merge, PathSpec

_ALL_BUT_CHANNELS = (0, 1, 2)


class Normalised(NamedTuple):
  """Holds `(tensor - mean) * factor` without multiplying it out.

  Attributes:
    tensor: [batch, height, width, channels].
    mean: [channels]; None if `tensor` is already the normalised one.
    factor: [channels]; None if `mean` is.
    rest: [channels], what the rounded `mean` is below the mean of `tensor`; None if `mean` is.
  """

  tensor: jax.Array
  mean: jax.Array | None = None
  factor: jax.Array | None = None
  rest: jax.Array | None = None

  @property
  def value(self) -> jax.Array:
    """Returns the normalised tensor itself, [batch, height, width, channels]."""
    if self.mean is None or self.factor is None:
      return self.tensor
    return (self.tensor - _per_channel(self.mean)) * _per_channel(self.factor)


class _BatchNorm(nn.Module):
  """Normalises by this path's statistics; what both merges have in common.

  `(y - mean) / sqrt(var + eps)` per channel. The statistics are those of the batch in training, the
  running averages of the collection `psbn_B` (`mean` and `var`, both [channels]; the variance is
  the biased one) in evaluation. With a batch sharded over devices they are global.

  Attributes:
    spec: the path.
    has_laterals: whether paths hand up at this layer; if not, it is an ordinary batch norm.
  """

  spec: PathSpec
  has_laterals: bool = True

  def normalise(self, y: Activation, train: bool) -> Normalised:
    """Returns `z` for the output of a convolution, multiplied out in evaluation only."""
    options, collection = self.spec.options, statistics_collection(self.spec.precision)
    shape, dtype = (y.code.shape[-1],), options.parameter_dtype
    mean: nn.Variable[jax.Array] = self.variable(collection, 'mean', jnp.zeros, shape, dtype)
    var: nn.Variable[jax.Array] = self.variable(collection, 'var', jnp.ones, shape, dtype)
    if not train:
      centred = y.value - _per_channel(mean.value)
      return Normalised(centred * _per_channel(jax.lax.rsqrt(var.value + options.epsilon)))
    batch_mean, batch_var, rest = moments(y.code)
    scaled_var = batch_var * jnp.square(y.scale)
    if self.is_mutable_collection(collection) and not self.is_initializing():
      for running, batch in ((mean, batch_mean * y.scale), (var, scaled_var)):
        fresh = jax.lax.stop_gradient(batch)
        running.value = options.momentum * running.value + (1 - options.momentum) * fresh
    factor = y.scale * jax.lax.rsqrt(scaled_var + options.epsilon)
    return Normalised(y.code, batch_mean, factor, rest)

  def hand_up(self, features: jax.Array | Normalised) -> None:
    """Offers `features` to the paths above; kept only if the caller collects laterals."""
    collection = lateral_collection(self.spec.precision)
    if self.has_laterals and self.is_mutable_collection(collection):
      self.put_variable(collection, 'z', features)

  @property
  def lower(self) -> tuple[int, ...]:
    """Returns the precisions of the lower paths that hand up at this layer."""
    return self.spec.bits[: self.spec.index] if self.has_laterals else ()

  def handed_up(self, precision: int) -> Any:
    """Returns what the path of a lower precision handed up at this layer.

    Raises:
      ValueError: if that path has no such layer.
    """
    features = self.get_variable(lateral_collection(precision), 'z')
    if features is None:
      layer = '/'.join(self.path[:-1])
      raise ValueError(
        f'the path of {self.spec.precision} bits has a layer {layer}, that of {precision} bits has '
        'none: paths have to be alike.'
      )
    return features

  def channel_parameter(self, name: str, start: float, channels: int) -> jax.Array:
    """Returns a parameter of one number per channel, [channels]."""
    initializer = nn.initializers.constant(start)
    return self.param(name, initializer, (channels,), self.spec.options.parameter_dtype)


class PrecisionShiftBatchNorm(_BatchNorm):
  """Applies PSBN (eq. 8, Figure 2b): `gamma_k z_k + sum_{j<k} gamma_{j->k} z_j + beta_k`.

  Hands up `z_k`, in training as a `Normalised`. Parameters, all [channels]: `scale` (gamma_k),
  `bias` (beta_k), `shift_from_B` (gamma_{j->k}) for every lower precision B.
  """

  @nn.compact
  def __call__(self, y: Activation, train: bool) -> jax.Array:
    """Maps [batch, height, width, channels] to the same shape."""
    channels, shift_init = y.code.shape[-1], self.spec.options.shift_init
    z = self.normalise(y, train)
    self.hand_up(z if train else z.tensor)
    terms, weights = [z], [self.channel_parameter('scale', 1.0, channels)]
    for precision in self.lower:
      features = self.handed_up(precision)
      terms.append(features if isinstance(features, Normalised) else Normalised(features))
      weights.append(self.channel_parameter(shift_name(precision), shift_init, channels))
    return merge(terms, weights, self.channel_parameter('bias', 0.0, channels))


class VanillaMergeBatchNorm(_BatchNorm):
  """Applies the merge of Figure 2a: `o_k = s_l o_{k-1} + s_r y_k`, then an ordinary batch norm.

  For the ablation. The factors are those of the nesting identity. Hands up `o_k`, and reads the
  path just below alone.
  """

  @nn.compact
  def __call__(self, y: Activation, train: bool) -> jax.Array:
    """Maps [batch, height, width, channels] to the same shape."""
    if self.lower:
      below = self.lower[-1]
      lower, own = onion.merge_factors(below, self.spec.ring_width)
      merged = lower * self.handed_up(below) + own * y.value
      y = Activation(merged, jnp.ones((), merged.dtype))
    self.hand_up(y.value)
    z, channels = self.normalise(y, train), y.code.shape[-1]
    scale = self.channel_parameter('scale', 1.0, channels)
    return merge([z], [scale], self.channel_parameter('bias', 0.0, channels))


NORMALISATIONS = (PrecisionShiftBatchNorm, VanillaMergeBatchNorm)


def normalisation(
  spec: PathSpec, name: str, *, ends_block: bool
) -> PrecisionShiftBatchNorm | VanillaMergeBatchNorm:
  """Returns the normalisation that the options of a path ask for, as a submodule `name`.

  Args:
    spec: the path.
    name: of the submodule.
    ends_block: whether the layer ends a block.
  """
  match spec.options.laterals:
    case Laterals.EVERY_LAYER:
      has_laterals = True
    case Laterals.BLOCK_ENDS:
      has_laterals = ends_block
  match spec.options.merge:
    case Merge.PSBN:
      return PrecisionShiftBatchNorm(spec, has_laterals, name=name)
    case Merge.VANILLA:
      return VanillaMergeBatchNorm(spec, has_laterals, name=name)


def merge(terms: Sequence[Normalised], weights: Sequence[jax.Array], bias: jax.Array) -> jax.Array:
  """Returns `sum_j weights_j terms_j + bias`, per channel (eq. 8).

  Args:
    terms: the path's own features first, then those of lower paths.
    weights: [channels] each, one for each term.
    bias: [channels].

  Returns:
    [batch, height, width, channels].
  """
  if all(term.mean is None for term in terms):
    merged = _per_channel(weights[0]) * terms[0].tensor
    for weight, term in zip(weights[1:], terms[1:], strict=True):
      merged += _per_channel(weight) * term.tensor
    return merged + _per_channel(bias)
  means: list[jax.Array] = []
  rests: list[jax.Array] = []
  factors: list[jax.Array] = []
  for term, weight in zip(terms, weights, strict=True):
    means.append(jnp.zeros_like(weight) if term.mean is None else term.mean)
    rests.append(jnp.zeros_like(weight) if term.rest is None else term.rest)
    factors.append(weight if term.factor is None else weight * term.factor)
  tensors = tuple(term.tensor for term in terms)
  return _affine(tensors, tuple(means), tuple(rests), tuple(factors), bias)


def _per_channel(x: jax.Array) -> jax.Array:
  """Returns [channels] as [1, 1, 1, channels], the rank of what it is combined with."""
  return x[None, None, None]


@jax.custom_vjp
def moments(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns mean and biased variance of each channel, and what rounding took from the mean.

  The backward rule takes no sums. Autodiff would sum the centred tensor, through which the variance
  depends on the mean, but that sum is 0.

  A float32 mean is off by up to 6e-8 of itself: of a hundred deviations, by 6e-6 of one, in every
  element alike. Gradients sum over all elements, so there it counts.

  Args:
    x: [batch, height, width, channels].

  Returns:
    Mean, variance, and the mean of what is left once the mean is subtracted, [channels] each. The
    last has no gradient.
  """
  mean = jnp.mean(x, axis=_ALL_BUT_CHANNELS)
  var = jnp.mean(jnp.square(x - _per_channel(mean)), axis=_ALL_BUT_CHANNELS)
  # Kept apart: of one centred tensor for both, XLA would write it to memory and read it twice.
  again = jax.lax.optimization_barrier(mean)
  return mean, var, jnp.mean(x - _per_channel(again), axis=_ALL_BUT_CHANNELS)


_Moments = tuple[jax.Array, jax.Array, jax.Array]


def _moments_forward(x: jax.Array) -> tuple[_Moments, tuple[jax.Array, jax.Array]]:
  mean, var, rest = moments(x)
  return (mean, var, rest), (x, mean)


def _moments_backward(
  residuals: tuple[jax.Array, jax.Array], cotangents: _Moments
) -> tuple[jax.Array]:
  (x, mean), (to_mean, to_var, _) = residuals, cotangents
  count = math.prod(x.shape[:-1])
  slope = (2 / count) * to_var
  return (_per_channel(slope) * (x - _per_channel(mean)) + _per_channel(to_mean / count),)


moments.defvjp(_moments_forward, _moments_backward)

_Arrays = tuple[jax.Array, ...]


@jax.custom_vjp
def _affine(
  tensors: _Arrays, means: _Arrays, rests: _Arrays, factors: _Arrays, bias: jax.Array
) -> jax.Array:
  """Returns `sum_j (tensors_j - means_j) * factors_j + bias`; gradients subtract `rests_j`, too."""
  del rests
  for mean, factor in zip(means, factors, strict=True):
    bias -= mean * factor
  merged = tensors[0] * _per_channel(factors[0])
  for tensor, factor in zip(tensors[1:], factors[1:], strict=True):
    merged += tensor * _per_channel(factor)
  return merged + _per_channel(bias)


_Residuals = tuple[_Arrays, _Arrays, _Arrays, _Arrays]


def _affine_forward(
  tensors: _Arrays, means: _Arrays, rests: _Arrays, factors: _Arrays, bias: jax.Array
) -> tuple[jax.Array, _Residuals]:
  return _affine(tensors, means, rests, factors, bias), (tensors, means, rests, factors)


def _affine_backward(
  residuals: _Residuals, cotangent: jax.Array
) -> tuple[_Arrays, _Arrays, _Arrays, _Arrays, jax.Array]:
  tensors, means, rests, factors = residuals
  total = jnp.sum(cotangent, axis=_ALL_BUT_CHANNELS)
  # Of one centred tensor for all paths that read it, XLA would keep it from path to path.
  means = jax.lax.optimization_barrier(means)
  # Centred before it is summed: of a tensor far from 0, the sum would be large, and what is left
  # of it without `mean * total` would have lost its digits.
  return (
    tuple(cotangent * _per_channel(factor) for factor in factors),
    tuple(-factor * total for factor in factors),
    tuple(jnp.zeros_like(rest) for rest in rests),
    tuple(
      jnp.sum(cotangent * (tensor - _per_channel(mean)), axis=_ALL_BUT_CHANNELS) - rest * total
      for tensor, mean, rest in zip(tensors, means, rests, strict=True)
    ),
    total,
  )


_affine.defvjp(_affine_forward, _affine_backward)
