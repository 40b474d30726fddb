"""Convolves integer-valued floats, as the integer network that is deployed does."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

_TwoArrays = tuple[jax.Array, jax.Array]


def convolve(
  x: jax.Array, kernel: jax.Array, strides: tuple[int, int], compute_dtype: Any
) -> jax.Array:
  """Convolves with padding of half the kernel: operands in `compute_dtype`, sums in that of `x`.

  With integer-valued operands of at most 8 bits each a bfloat16 forward convolution equals the
  float32 one exactly while the accumulator stays below 2**24. Its backward convolutions round the
  incoming gradient to bfloat16.

  Args:
    x: [batch, height, width, channels].
    kernel: [height, width, channels / groups, features]; groups of channels are convolved apart.
    strides: (vertical, horizontal).
    compute_dtype: dtype of the operands.

  Returns:
    [batch, height', width', features], dtype of `x`.
  """
  if x.dtype == compute_dtype:
    return _conv(x, kernel, strides, None)
  return _low_precision_conv(x, kernel, strides, jnp.dtype(compute_dtype).name)


def _conv(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], accumulator: Any) -> jax.Array:
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    strides,
    # Explicit padding that ignores the input's parity, so that an odd size stays aligned.
    [((k - 1) // 2, k // 2) for k in kernel.shape[:2]],
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=x.shape[-1] // kernel.shape[2],
    # Accelerators would otherwise round float32 operands to 8 to 11 bits.
    precision=jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None,
    preferred_element_type=accumulator,
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _low_precision_conv(
  x: jax.Array, kernel: jax.Array, strides: tuple[int, int], compute_dtype: str
) -> jax.Array:
  return _conv(x.astype(compute_dtype), kernel.astype(compute_dtype), strides, x.dtype)


def _low_precision_conv_forward(
  x: jax.Array, kernel: jax.Array, strides: tuple[int, int], compute_dtype: str
) -> tuple[jax.Array, _TwoArrays]:
  x, kernel, wide = x.astype(compute_dtype), kernel.astype(compute_dtype), x.dtype
  return _conv(x, kernel, strides, wide), (x, kernel)


def _low_precision_conv_backward(
  strides: tuple[int, int], compute_dtype: str, operands: _TwoArrays, cotangent: jax.Array
) -> _TwoArrays:
  # JAX's own transposition rule wants all three tensors in one dtype. What it returns is widened
  # for the float32 gradients of the latents.
  def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _conv(x, kernel, strides, None)

  _, transpose = jax.vjp(conv, *operands)
  to_x, to_kernel = transpose(cotangent.astype(compute_dtype))
  return to_x.astype(cotangent.dtype), to_kernel.astype(cotangent.dtype)


_low_precision_conv.defvjp(_low_precision_conv_forward, _low_precision_conv_backward)
