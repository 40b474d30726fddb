"""Turns floats into integers: weights (DoReFa and others), PACT activations, pixels.

Every quantizer returns *integer-valued floats* with the straight-through gradients of the value
form, and the scale that turns them into values. A convolution takes the integers, and the scales
multiply its output: training runs the integer network that is deployed. Reference: DPOQ (ACML
2021), section 4; DoReFa-Net (arXiv:1606.06160); PACT (arXiv:1805.06085).
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dpoq_jax import onion

# A ring of this width is the float kernel itself, activations of it are a plain ReLU: the 32-bit
# baseline.
FLOAT_WIDTH = 32
# Codes of more bits would be rounded by float32, in which latents live.
MAX_WIDTH = 16

# Clips are trained freely; a step that takes one to zero or below must not divide by zero.
SMALLEST_CLIP = 1e-3

# By width, from 1. Not found anew at each start: another machine's last digit would be another
# code here and there, and processes that train together must not differ.
_LEAST_ERROR_CLIPS = (
  *(0.79788456, 1.49352996, 2.05106812, 2.51400419, 2.91615032, 3.27798468, 3.61109663, 3.92220510),
  *(4.21548341, 4.49376095, 4.75911751, 5.01312783, 5.25707008, 5.49200386, 5.71882237, 5.93822474),
)

# Part of a mean square that is taken for rounding: float32 sums of millions are exact to 1e-3.
_LEAST_VARIANCE = 1e-6

WeightQuantizer = Callable[[jax.Array, int], jax.Array]
"""(latent, ring width) -> integer-valued codes in [0, 2**width - 1], shape and dtype kept."""


class Activation(NamedTuple):
  """Holds a quantized tensor: integer codes and their scale.

  Attributes:
    code: integer-valued float array, [batch, height, width, channels].
    scale: scalar; carries no gradient, since the backward rule of the codes already holds it.
  """

  code: jax.Array
  scale: jax.Array

  @property
  def value(self) -> jax.Array:
    """Returns `code * scale`: the tensor as floats, with the gradients of the value form."""
    return self.code * self.scale


_OneArray = tuple[jax.Array]
_TwoArrays = tuple[jax.Array, jax.Array]


@jax.custom_jvp
def straight_through_round(x: jax.Array) -> jax.Array:
  """Rounds to the nearest integer (ties to even); its gradient is the identity."""
  return jnp.round(x)


def _straight_through_round_jvp(primals: _OneArray, tangents: _OneArray) -> _TwoArrays:
  return straight_through_round(*primals), tangents[0]


straight_through_round.defjvp(_straight_through_round_jvp)


@jax.custom_jvp
def straight_through_floor(x: jax.Array) -> jax.Array:
  """Rounds down to an integer; its gradient is the identity."""
  return jnp.floor(x)


def _straight_through_floor_jvp(primals: _OneArray, tangents: _OneArray) -> _TwoArrays:
  return straight_through_floor(*primals), tangents[0]


straight_through_floor.defjvp(_straight_through_floor_jvp)


def check_width(name: str, width: int) -> int:
  """Returns `width` if a network can quantize to it.

  Raises:
    ValueError: unless `width` is from 1 to 16, or 32 (float). The message names `name`.
  """
  if width != FLOAT_WIDTH and not 1 <= width <= MAX_WIDTH:
    raise ValueError(f'{name}={width}: give 1 to {MAX_WIDTH} bits, or {FLOAT_WIDTH} for float.')
  return width


def dorefa(latent: jax.Array, width: int) -> jax.Array:
  """Quantizes as DoReFa: `round((tanh(w) / (2 max|tanh(w)|) + 1/2) (2**r - 1))`.

  The maximum is a constant in the backward pass.

  >>> dorefa(jnp.array([-1.0, -0.1, 0.1, 1.0]), width=2).tolist()
  [0.0, 1.0, 2.0, 3.0]

  Args:
    latent: float array, any shape.
    width: bits of the ring, r.

  Returns:
    Integer-valued codes in [0, 2**r - 1], shape and dtype of `latent`.
  """
  return straight_through_round(_unit(latent) * onion.max_code(width))


def standardised(latent: jax.Array, width: int) -> jax.Array:
  """Standardises the kernel (zero mean, unit deviation) and clips it at a few deviations.

  Dividing by the largest weight, as `dorefa` does, lets one outlier squeeze all others into the
  middle levels; 1.7 deviations for rings of up to 2 bits, 2.5 for wider ones, use the levels
  evenly. Same contract as `dorefa`.
  """
  return _standardised(latent, width, 1.7 if width <= 2 else 2.5)


def standardised_least_error(latent: jax.Array, width: int) -> jax.Array:
  """Standardises the kernel and clips it at `least_error_clip`; see `standardised`."""
  return _standardised(latent, width, least_error_clip(width))


def standardised_per_channel(latent: jax.Array, width: int) -> jax.Array:
  """Standardises each output channel, and clips it as `standardised_least_error` does."""
  return _standardised(latent, width, least_error_clip(width), tuple(range(latent.ndim - 1)))


def least_error_clip(width: int) -> float:
  """Returns the clip at which a standard normal is quantized with the least squared error.

  The quantizer is that of the weights: `2**width` levels, evenly spaced from `-clip` to `clip`.

  >>> least_error_clip(2)
  1.49352996
  """
  return _LEAST_ERROR_CLIPS[width - 1]


def _standardised(
  latent: jax.Array, width: int, clip: float, axes: tuple[int, ...] | None = None
) -> jax.Array:
  """Quantizes latents, standardised over `axes` (all, if None), to levels up to `clip`."""
  # Equal latents have no deviation but what rounding leaves, by which nothing is divided: they are
  # the middle of the range, and their gradient is no larger than that of others.
  variance = jnp.var(latent, axes, keepdims=axes is not None)
  square = jnp.mean(jnp.square(latent), axes, keepdims=axes is not None)
  deviation = jnp.sqrt(jnp.where(variance > _LEAST_VARIANCE * square, variance, 1))
  centred = latent - jnp.mean(latent, axes, keepdims=axes is not None)
  clipped = jnp.clip(centred / deviation, -clip, clip)
  return straight_through_round((clipped / (2 * clip) + 0.5) * onion.max_code(width))


def floored(latent: jax.Array, width: int) -> jax.Array:
  """Floors DoReFa's unit range to `2**r` equal parts: `min(floor(u 2**r), 2**r - 1)`.

  `u` is that of `dorefa`, in [0, 1].

  What AdaBits shares between precisions: the codes of r bits are those of more bits truncated,
  which rounded ones are not. Same contract as `dorefa`.
  """
  top = onion.max_code(width)
  codes = straight_through_floor(_unit(latent) * (top + 1))
  # The largest weight, u = 1, is brought back into the top part; its gradient stays whole.
  return codes - jax.lax.stop_gradient(jnp.maximum(codes - top, 0))


def _unit(latent: jax.Array) -> jax.Array:
  """Returns `tanh(w) / (2 max|tanh(w)|) + 1/2`, in [0, 1]; the maximum is a constant."""
  squashed = jnp.tanh(latent)
  largest = jax.lax.stop_gradient(jnp.max(jnp.abs(squashed)))
  # All-zero latents have no scale of their own: the middle of the range, not NaN.
  return squashed / (2 * jnp.where(largest > 0, largest, 1)) + 0.5


def integer_kernel(codes: jax.Array, width: int) -> tuple[jax.Array, float]:
  """Turns codes of a ring into the odd integers that a convolution takes, and its output's scale.

  Args:
    codes: integer-valued floats in [0, 2**width - 1].
    width: bits of the ring, r.

  Returns:
    `2c - (2**r - 1)`, and `1 / (2**r - 1)`.
  """
  top = onion.max_code(width)
  return 2 * codes - top, 1 / top


def pact(x: jax.Array, clip: jax.Array, bits: int, *, signed: bool = False) -> Activation:
  """Quantizes as PACT: `y = clip(x, 0, alpha)`, `code = round(y (2**a - 1) / alpha)`.

  >>> pact(jnp.array([-1.0, 0.4, 1.0, 9.0]), clip=jnp.array(1.5), bits=2).code.tolist()
  [0.0, 1.0, 2.0, 3.0]

  The gradient goes to `x` where `0 < x < alpha` and to `alpha` where `x >= alpha`, as if the values
  `code * scale` had been computed; `scale` itself carries none.

  Signed, for activations without a ReLU: `y = clip(x, -alpha, alpha)` and `2**(a - 1) - 1` levels
  on either side of 0; where `x <= -alpha` the gradient goes to `alpha`, negated.

  Args:
    x: pre-activations, any shape, float.
    clip: alpha, scalar.
    bits: a; 32 gives a plain ReLU (signed: `x` itself), of scale 1.
    signed: whether negative values are kept.

  Returns:
    Codes in [0, 2**a - 1] and the scale `alpha / (2**a - 1)`; signed, in ±(2**(a - 1) - 1) and the
    scale `alpha / (2**(a - 1) - 1)`.

  Raises:
    ValueError: for signed activations of 1 bit, which would all be 0.
  """
  if bits == FLOAT_WIDTH:
    return Activation(x if signed else _relu(x), jnp.ones((), x.dtype))
  if signed and bits < 2:
    raise ValueError('signed activations have 2 bits at least: with 1 all of them would be 0.')
  # Straight through the floor, so that a clip pushed below it is still trained back up.
  clip = clip + jax.lax.stop_gradient(jnp.maximum(clip, SMALLEST_CLIP) - clip)
  constant_clip, top = jax.lax.stop_gradient(clip), onion.max_code(bits - 1 if signed else bits)
  return Activation(_pact_codes(x, clip, top, signed), constant_clip / top)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _pact_codes(x: jax.Array, clip: jax.Array, top: int, signed: bool) -> jax.Array:
  return _rounded(x, clip, top, signed)


def _rounded(x: jax.Array, clip: jax.Array, top: int, signed: bool) -> jax.Array:
  """Returns `round(clip(x, 0, alpha) top / alpha)`; signed, of `clip(x, -alpha, alpha)`."""
  lowest = -clip if signed else 0
  # A NaN stays one, for the training step to see.
  clipped = jnp.minimum(jnp.maximum(x, lowest), clip)
  # Not divided by the scale: the order of operations decides ties, and every runtime copies it.
  return jnp.round(clipped * top / clip)


def _pact_codes_forward(
  x: jax.Array, clip: jax.Array, top: int, signed: bool
) -> tuple[jax.Array, _TwoArrays]:
  # The backward pass needs of `x` whether it is below, within or above: a quarter of its bytes.
  side = (x >= clip).astype(jnp.int8) - (x <= (-clip if signed else 0)).astype(jnp.int8)
  return _kept_in_memory(_rounded(x, clip, top, signed), x), (side, clip)


@jax.custom_vjp
def _relu(x: jax.Array) -> jax.Array:
  """Returns `max(x, 0)`; its gradient is that of `jax.nn.relu`."""
  return jnp.maximum(x, 0)


def _relu_forward(x: jax.Array) -> _TwoArrays:
  # Like PACT's codes: written once, and of `x` a quarter of its bytes is kept.
  return _kept_in_memory(jnp.maximum(x, 0), x), x > 0


def _relu_backward(is_above: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
  return (jnp.where(is_above, cotangent, 0),)


_relu.defvjp(_relu_forward, _relu_backward)


def _kept_in_memory(codes: jax.Array, x: jax.Array) -> jax.Array:
  """Returns `codes`, in a form that XLA's CPU compiler writes to memory once.

  XLA deems rounding so cheap that it would keep `x` and round it again for every reader of the
  codes, and once more for the convolution: two more passes over memory in each layer. It does not
  do so with a division. So the codes are divided by 1, computed from `x` in a way that XLA does not
  see through; the quotient is exact. What that gains is measured by `benchmarks/pact_codes.py`.
  """

  def divided(codes: jax.Array, x: jax.Array) -> jax.Array:
    return codes / jnp.minimum(jnp.maximum(x, 1), 1)

  def as_they_are(codes: jax.Array, x: jax.Array) -> jax.Array:
    del x
    return codes

  return jax.lax.platform_dependent(codes, x, cpu=divided, default=as_they_are)


def _pact_codes_backward(
  top: int, signed: bool, residuals: _TwoArrays, cotangent: jax.Array
) -> _TwoArrays:
  side, clip = residuals
  slope = top / clip
  to_clip = side if signed else jnp.maximum(side, 0)
  return (
    jnp.where(side == 0, cotangent * slope, 0),
    jnp.sum(cotangent * to_clip.astype(cotangent.dtype)) * slope,
  )


_pact_codes.defvjp(_pact_codes_forward, _pact_codes_backward)


def image_codes(images: jax.Array, dtype: Any = jnp.float32) -> Activation:
  """Turns 8-bit pixels into the integers -128..127; the first normalisation scales them.

  Args:
    images: uint8, [batch, height, width, channels].
    dtype: float dtype of the result.

  Raises:
    TypeError: if `images` are not uint8.
  """
  if images.dtype != jnp.uint8:
    raise TypeError(f'images are {images.dtype}: give the 8-bit pixels themselves, as uint8.')
  return Activation(images.astype(dtype) - 128, jnp.asarray(1 / 128, dtype))
