"""The convolution of integers, and of a quantized kernel with quantized activations."""

from typing import Any

import chex
import jax
from jax import export
import jax.numpy as jnp
import numpy as np
import pytest

from dpoq_jax.core import convolution, quantizers

# Those whose value form is written out in `value_form`.
QUANTIZERS = ['dorefa', 'standardised']


def fake_round(x: jax.Array) -> jax.Array:
  """Straight-through rounding as it is usually written: for the value form."""
  return x + jax.lax.stop_gradient(jnp.round(x) - x)


def latent(shape=(3, 3, 4, 5), dtype: Any = np.float64, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).normal(0, 0.3, shape).astype(dtype)


def reference_convolution(x: np.ndarray, kernel: np.ndarray, strides: tuple[int, int]):
  """Sums over explicit windows, half the kernel padded."""
  height, width = kernel.shape[:2]
  x = np.pad(
    x,
    [(0, 0), ((height - 1) // 2, height // 2), ((width - 1) // 2, width // 2), (0, 0)],
  )
  windows = np.lib.stride_tricks.sliding_window_view(x, (height, width), axis=(1, 2))
  windows = windows[:, :: strides[0], :: strides[1]]
  return np.einsum('bxychw,hwcf->bxyf', windows, kernel)


@pytest.mark.parametrize('size', [7, 8])
@pytest.mark.parametrize('strides', [(1, 1), (2, 2)])
@pytest.mark.parametrize('kernel_size', [(3, 3), (1, 1)])
def test_convolution_equals_the_reference(size, strides, kernel_size):
  generator = np.random.default_rng(0)
  x = generator.integers(0, 256, (2, size, size, 3)).astype(np.float32)
  kernel = generator.integers(-255, 256, (*kernel_size, 3, 4)).astype(np.float32)
  y = convolution.convolve(jnp.asarray(x), jnp.asarray(kernel), strides, jnp.float32)
  # Integers of at most 27 * 255**2 < 2**24: exact.
  np.testing.assert_array_equal(y, reference_convolution(x, kernel, strides))


def integer_form(w, x, clip, width, bits, quantize, dtype):
  """What `OnionConv` after `PACT` computes."""
  activation = quantizers.pact(x, clip, bits)
  kernel, scale = quantizers.integer_kernel(quantize(w, width), width)
  return convolution.convolve(activation.code, kernel, (1, 1), dtype) * (activation.scale * scale)


def value_form(w, x, clip, width, bits, name):
  """The value form, read literally: float values are convolved, alpha clips and scales them."""
  top, levels = 2**bits - 1, 2**width - 1
  if name == 'dorefa':
    squashed = jnp.tanh(w)
    unit = squashed / (2 * jax.lax.stop_gradient(jnp.max(jnp.abs(squashed)))) + 0.5
  else:
    bound = 1.7 if width <= 2 else 2.5
    unit = jnp.clip((w - jnp.mean(w)) / jnp.std(w), -bound, bound) / (2 * bound) + 0.5
  weight = 2 * fake_round(unit * levels) / levels - 1
  # The value y = clip(x, 0, alpha), rounded to the grid straight through: dy/dx and dy/dalpha are
  # Of the value form, since the rounding's own alpha is not differentiated.
  y = jnp.where(x >= clip, clip, jnp.where(x > 0, x, 0.0))
  step = jax.lax.stop_gradient(clip) / top
  return jax.lax.conv_general_dilated(
    step * fake_round(y / step), weight, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


@pytest.mark.parametrize('name', QUANTIZERS)
@pytest.mark.parametrize(('width', 'bits'), [(1, 1), (2, 8), (4, 2), (8, 8), (16, 16)])
def test_integers_and_scales_equal_the_value_form(name: str, width: int, bits: int):
  generator = np.random.default_rng(0)
  with jax.enable_x64(True):
    w = jnp.asarray(latent())
    x = jnp.asarray(generator.normal(1, 1.5, (2, 5, 6, 4)))
    clip = jnp.asarray(2.0)
    g = jnp.asarray(generator.normal(size=(2, 5, 6, 5)))
    quantize = getattr(quantizers, name)
    y, pullback = jax.vjp(
      lambda w, x, clip: integer_form(w, x, clip, width, bits, quantize, jnp.float64), w, x, clip
    )
    expected, expected_pullback = jax.vjp(
      lambda w, x, clip: value_form(w, x, clip, width, bits, name), w, x, clip
    )
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    # Of the latent, the input and alpha.
    for got, want in zip(pullback(g), expected_pullback(g), strict=True):
      assert np.any(want != 0)
      largest = np.abs(want).max()
      np.testing.assert_allclose(got / largest, want / largest, rtol=0, atol=1e-12)


# bfloat16: 8 bits of significand, so integers up to 256 exactly; odd ring integers to 255.


def low_precision(x, kernel):
  # Op by op too: compiled for the CPU, XLA may skip a rounding to bfloat16 that is written.
  y = convolution.convolve(x, kernel, (1, 1), jnp.bfloat16)
  compiled = jax.jit(convolution.convolve, static_argnums=(2, 3))
  chex.assert_trees_all_equal(compiled(x, kernel, (1, 1), jnp.bfloat16), y)
  return y


@pytest.mark.parametrize('ring', [1, 2, 4, 8])
@pytest.mark.parametrize('bits', [1, 2, 8])
def test_bfloat16_convolution_is_exact_on_every_code(ring: int, bits: int):
  generator = np.random.default_rng(0)
  x = generator.integers(0, 2**bits, (2, 16, 16, 16)).astype(np.float32)
  codes = generator.integers(0, 2**ring, (3, 3, 16, 8)).astype(np.float32)
  kernel, _ = quantizers.integer_kernel(jnp.asarray(codes), ring)
  # 144 products of at most 255 * 255: below 2**24, so float32 is exact too.
  y = low_precision(jnp.asarray(x), kernel)
  assert y.dtype == jnp.float32
  exact = reference_convolution(x.astype(np.int64), np.asarray(kernel).astype(np.int64), (1, 1))
  np.testing.assert_array_equal(y, exact)
  np.testing.assert_array_equal(
    y, convolution.convolve(jnp.asarray(x), kernel, (1, 1), jnp.float32)
  )


@pytest.mark.parametrize('sign', [1, -1])
def test_bfloat16_convolution_is_exact_up_to_the_last_accumulator_below_2_to_24(sign: int):
  # The worst case of 8 bit x 8 bit is 255 * 255; 258 such products still stay below 2**24.
  x = np.full((2, 1, 1, 258), 255, np.float32)
  x[1, ..., -1] = 254  # An odd sum, which any rounding of operands or accumulator would change.
  kernel = np.full((1, 1, 258, 1), sign * 255, np.float32)
  expected = [sign * 16_776_450, sign * 16_776_195]
  assert 2**24 - 65_025 < abs(expected[0]) < 2**24
  y = low_precision(jnp.asarray(x), jnp.asarray(kernel))
  np.testing.assert_array_equal(y.ravel(), expected)


def test_float32_accumulators_round_above_2_to_24():
  # The limit of exact sums: 259 products give an odd number that float32 does not have.
  x, kernel = jnp.full((1, 1, 1, 259), 255.0), jnp.full((1, 1, 259, 1), 255.0)
  for dtype in (jnp.bfloat16, jnp.float32):
    y = convolution.convolve(x, kernel, (1, 1), dtype).item()
    assert y != 259 * 255**2
    assert y == pytest.approx(259 * 255**2, rel=1e-6)


def test_bfloat16_convolution_is_exact_through_partial_sums_near_2_to_24():
  # A 3x3 kernel over 28 channels climbs to 126 * 255**2, then down again, in every order of
  # summation below 252 * 255**2 < 2**24; the small odd rest must survive.
  x = np.full((1, 3, 3, 28), 255, np.float32)
  kernel = np.full((3, 3, 28, 1), 255, np.float32)
  kernel.reshape(-1)[126:] = -255
  kernel.reshape(-1)[-1] = -253
  y = low_precision(jnp.asarray(x), jnp.asarray(kernel))
  # All terms cancel but the last: 255 * (255 - 253).
  assert y[0, 1, 1, 0] == 510


def test_bfloat16_would_round_codes_of_more_than_8_bits():
  # The reason why an onion refuses them: 257 is not a bfloat16.
  x, kernel = jnp.full((1, 1, 1, 1), 257.0), jnp.ones((1, 1, 1, 1))
  assert low_precision(x, kernel).item() == 256
  assert convolution.convolve(x, kernel, (1, 1), jnp.float32).item() == 257


def test_bfloat16_gradients_are_close_to_float32():
  generator = np.random.default_rng(0)
  w = jnp.asarray(latent(dtype=np.float32))
  x = jnp.asarray(generator.normal(1, 1.5, (4, 8, 8, 4)), jnp.float32)
  g = jnp.asarray(generator.normal(size=(4, 8, 8, 5)), jnp.float32)

  clip = jnp.asarray(2.0)

  def gradients(dtype):
    y, pullback = jax.vjp(
      lambda w, x, clip: integer_form(w, x, clip, 8, 8, quantizers.dorefa, dtype), w, x, clip
    )
    return y, pullback(g)

  y, (to_latent, to_x, to_clip) = gradients(jnp.bfloat16)
  expected_y, expected = gradients(jnp.float32)
  chex.assert_trees_all_equal(y, expected_y)
  for got, want in zip((to_latent, to_x, to_clip), expected, strict=True):
    assert got.dtype == jnp.float32
    # A cotangent rounded to 8 bits is wrong by at most 2**-9 of itself; sums stay near that.
    error = np.linalg.norm(got - want) / np.linalg.norm(want)
    assert 0 < error < 1e-2


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('stride', [1, 2])
def test_gradients_of_strided_convolutions(dtype: Any, stride: int):
  # Integer cotangents of at most 8 bits are exact in bfloat16; results too if at most 256.
  generator = np.random.default_rng(0)
  x = jnp.asarray(generator.integers(0, 2, (1, 4, 4, 2)), jnp.float32)
  kernel = jnp.asarray(generator.integers(-1, 2, (3, 3, 2, 2)), jnp.float32)
  y, pullback = jax.vjp(
    lambda x, kernel: convolution.convolve(x, kernel, (stride, stride), dtype), x, kernel
  )
  g = np.asarray(generator.integers(-3, 4, y.shape), np.float32)
  to_x, to_kernel = pullback(jnp.asarray(g))
  # The definition: <g, conv(x, e)> for every unit tensor e.
  for position in np.ndindex(kernel.shape):
    unit = np.zeros(kernel.shape, np.float32)
    unit[position] = 1
    expected = np.sum(g * reference_convolution(np.asarray(x), unit, (stride, stride)))
    assert to_kernel[position] == expected
  for position in np.ndindex(x.shape):
    unit = np.zeros(x.shape, np.float32)
    unit[position] = 1
    expected = np.sum(g * reference_convolution(unit, np.asarray(kernel), (stride, stride)))
    assert to_x[position] == expected


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_groups_are_convolved_apart(dtype):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.integers(-8, 8, (2, 5, 5, 4)), jnp.float32)
  kernel = jnp.asarray(rng.integers(-3, 4, (3, 3, 2, 6)), jnp.float32)

  def grouped(x, kernel):
    return convolution.convolve(x, kernel, (1, 1), dtype)

  def apart(x, kernel):
    halves = [
      convolution.convolve(x[..., 2 * i : 2 * i + 2], kernel[..., 3 * i : 3 * i + 3], (1, 1), dtype)
      for i in range(2)
    ]
    return jnp.concatenate(halves, axis=-1)

  np.testing.assert_array_equal(grouped(x, kernel), apart(x, kernel))
  cotangent = jnp.asarray(rng.integers(-3, 4, (2, 5, 5, 6)), jnp.float32)
  for ours, theirs in zip(
    jax.vjp(grouped, x, kernel)[1](cotangent), jax.vjp(apart, x, kernel)[1](cotangent), strict=True
  ):
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def exported_convolution(platform: str, compute_dtype: Any) -> str:
  """The line of the convolution in the program for another platform."""
  x = jax.ShapeDtypeStruct((2, 5, 5, 3), jnp.float32)
  kernel = jax.ShapeDtypeStruct((3, 3, 3, 4), jnp.float32)
  convolve = jax.jit(lambda x, kernel: convolution.convolve(x, kernel, (1, 1), compute_dtype))
  program = export.export(convolve, platforms=[platform])(x, kernel).mlir_module()
  (line,) = (each for each in program.splitlines() if 'stablehlo.convolution' in each)
  return line


@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
def test_bfloat16_reaches_the_accelerator_with_float32_sums(platform: str):
  line = exported_convolution(platform, jnp.bfloat16)
  operands, result = line.rsplit(' : ', 1)[1].split(' -> ')
  assert operands == '(tensor<2x5x5x3xbf16>, tensor<3x3x3x4xbf16>)'
  assert result.startswith('tensor<2x5x5x4xf32>')
  assert 'HIGHEST' not in line


@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
def test_accelerators_are_asked_for_all_digits_of_float32(platform: str):
  assert exported_convolution(platform, jnp.float32).count('HIGHEST') == 2
