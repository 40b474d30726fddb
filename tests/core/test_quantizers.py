from typing import Any, get_args

import chex
import jax
from jax import export
import jax.numpy as jnp
import numpy as np
import pytest

from dpoq_jax import config
from dpoq_jax.core import convolution, quantizers
from dpoq_jax.network import from_config

# A second implementation of the quantizers (section 4), in NumPy and float64. `np.rint` rounds ties
# to even.


def reference_dorefa(latent: np.ndarray, width: int) -> np.ndarray:
  squashed = np.tanh(latent)
  unit = squashed / (2 * np.abs(squashed).max()) + 0.5
  return np.rint(unit * (2**width - 1))


def reference_standardised(latent: np.ndarray, width: int) -> np.ndarray:
  bound = 1.7 if width <= 2 else 2.5
  standard = (latent - latent.mean()) / latent.std()
  return np.rint((np.clip(standard, -bound, bound) + bound) / (2 * bound) * (2**width - 1))


def reference_pact(x: np.ndarray, clip: float, bits: int) -> np.ndarray:
  return np.rint(np.minimum(np.maximum(x, 0), clip) * (2**bits - 1) / clip)


def fake_round(x: jax.Array) -> jax.Array:
  """Straight-through rounding as it is usually written: for the value form."""
  return x + jax.lax.stop_gradient(jnp.round(x) - x)


def latent(shape=(3, 3, 4, 5), dtype: Any = np.float64, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).normal(0, 0.3, shape).astype(dtype)


REFERENCES = {'dorefa': reference_dorefa, 'standardised': reference_standardised}
WIDTHS = [1, 2, 3, 4, 8, 12, 16]


@pytest.mark.parametrize('name', REFERENCES)
@pytest.mark.parametrize('width', WIDTHS)
def test_weight_codes_equal_the_reference(name: str, width: int):
  quantize = getattr(quantizers, name)
  expected = REFERENCES[name](latent(), width)
  with jax.enable_x64(True):
    codes = quantize(jnp.asarray(latent()), width)
    assert codes.dtype == jnp.float64
    np.testing.assert_array_equal(codes, expected)
  # In float32 a latent within rounding of a tie may fall to the neighbour.
  codes = jax.jit(quantize, static_argnums=1)(jnp.asarray(latent(dtype=np.float32)), width)
  assert codes.dtype == jnp.float32
  assert np.all(np.abs(codes - expected) <= 1)
  assert np.mean(codes != expected) <= (0 if width <= 8 else 0.05)


@pytest.mark.parametrize('name', REFERENCES)
def test_every_weight_quantizer_is_offered_by_name(name: Any):
  assert set(get_args(config.WeightQuantizer)) == set(REFERENCES)
  assert from_config.weight_quantizer(name) is getattr(quantizers, name)


def test_dorefa_by_hand():
  # u of the extremes is 0 and 1, of zero 1/2; 3u = 1.5 is a tie, to even.
  w = jnp.asarray([-2.0, -0.1, 0.0, 0.1, 2.0])
  # tanh(0.1) / (2 tanh(2)) = 0.0517: u = 0.4483, 0.5517; times 3: 1.34, 1.66.
  chex.assert_trees_all_equal(quantizers.dorefa(w, 2), jnp.asarray([0.0, 1.0, 2.0, 2.0, 3.0]))
  # One bit is the sign: 0 or 1. Zero is the tie 0.5, to even.
  chex.assert_trees_all_equal(quantizers.dorefa(w, 1), jnp.asarray([0.0, 0.0, 0.0, 1.0, 1.0]))


def test_standardised_by_hand():
  # Mean 1, deviation 2: standardised -1, -1, 1, 1 and bounds 2.5 give u = 0.3, 0.7; times 15.
  w = jnp.asarray([-1.0, -1.0, 3.0, 3.0])
  chex.assert_trees_all_close(quantizers.standardised(w, 4), jnp.asarray([4.0, 4.0, 10.0, 10.0]))
  # Bounds 1.7 for 2 bits: u = 0.206, 0.794; times 3: 0.62, 2.38.
  chex.assert_trees_all_equal(quantizers.standardised(w, 2), jnp.asarray([1.0, 1.0, 2.0, 2.0]))


@pytest.mark.parametrize('name', REFERENCES)
@pytest.mark.parametrize('constant', [0.0, 1.0, -1.0])
def test_constant_latents_give_codes(name: str, constant: float):
  codes = getattr(quantizers, name)(jnp.full((3, 3, 2, 2), constant), 2)
  # 3u for u = 1/2 is the tie 1.5; DoReFa's extremes are 0 and 3.
  expected = 2 if name == 'standardised' else {0.0: 2, 1.0: 3, -1.0: 0}[constant]
  np.testing.assert_array_equal(codes, np.full((3, 3, 2, 2), expected))


@pytest.mark.parametrize('width', [1, 2, 4, 8])
def test_dorefa_gradient_by_hand(width: int):
  w = latent()
  g = np.random.default_rng(1).normal(size=w.shape)
  squashed = np.tanh(w)
  # d code / d w with the maximum a constant: (1 - tanh(w)**2) (2**r - 1) / (2 max), max included.
  expected = g * (1 - squashed**2) * (2**width - 1) / (2 * np.abs(squashed).max())
  with jax.enable_x64(True):
    gradient = jax.grad(lambda w: jnp.sum(g * quantizers.dorefa(w, width)))(jnp.asarray(w))
    np.testing.assert_allclose(gradient, expected, rtol=1e-12)


@pytest.mark.parametrize('width', [1, 2, 4, 8])
def test_standardised_gradient_by_hand(width: int):
  w = latent()
  g = np.random.default_rng(1).normal(size=w.shape)
  bound = 1.7 if width <= 2 else 2.5
  deviation = w.std()
  standard = (w - w.mean()) / deviation
  inside = g * (np.abs(standard) < bound) * (2**width - 1) / (2 * bound)
  assert np.any(np.abs(standard) > bound)
  # Through mean and deviation, as of any standardisation.
  expected = (inside - inside.mean() - standard * (inside * standard).mean()) / deviation
  with jax.enable_x64(True):
    gradient = jax.grad(lambda w: jnp.sum(g * quantizers.standardised(w, width)))(jnp.asarray(w))
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-12)


def test_round_is_straight_through():
  x = jnp.asarray([-1.5, -0.5, 0.4, 0.5, 1.5, 2.5])
  rounded, pullback = jax.vjp(quantizers.straight_through_round, x)
  chex.assert_trees_all_equal(rounded, jnp.asarray([-2.0, 0.0, 0.0, 0.0, 2.0, 2.0]))
  g = jnp.arange(6.0)
  chex.assert_trees_all_equal(pullback(g)[0], g)
  # Forward mode as well: a custom JVP, not a custom VJP.
  chex.assert_trees_all_equal(jax.jvp(quantizers.straight_through_round, (x,), (g,))[1], g)


@pytest.mark.parametrize('bits', WIDTHS)
@pytest.mark.parametrize('clip', [0.7, 6.0])
def test_pact_codes_equal_the_reference(bits: int, clip: float):
  x = np.concatenate([np.random.default_rng(0).normal(0, 2 * clip, 500), [0, clip, -clip]])
  expected = reference_pact(x, clip, bits)
  assert set(expected) >= {0, 2**bits - 1}
  with jax.enable_x64(True):
    activation = quantizers.pact(jnp.asarray(x), jnp.asarray(clip), bits)
    np.testing.assert_array_equal(activation.code, expected)
    np.testing.assert_allclose(activation.scale, clip / (2**bits - 1), rtol=1e-15)
    np.testing.assert_allclose(activation.value, expected * clip / (2**bits - 1), rtol=1e-14)
  single = quantizers.pact(jnp.asarray(x, jnp.float32), jnp.asarray(clip, jnp.float32), bits)
  assert single.code.dtype == single.scale.dtype == single.value.dtype == jnp.float32
  assert np.all(np.abs(single.code - expected) <= 1)
  assert np.mean(single.code != expected) <= (0 if bits <= 8 else 0.05)


@pytest.mark.parametrize('bits', [1, 2, 8])
def test_pact_gradients_by_hand(bits: int):
  clip = jnp.asarray(2.0)
  below, above = np.nextafter(2.0, 0, dtype=np.float32), np.nextafter(2.0, 3, dtype=np.float32)
  x = jnp.asarray([-3.0, -1e-7, 0.0, 1e-7, 0.5, below, 2.0, above, 5.0])
  # PACT's rule, bounds included: to x where 0 < x < alpha, to alpha where x >= alpha.
  to_x = jnp.asarray([0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
  to_clip = jnp.asarray([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
  g = jnp.asarray([1.0, 2.0, 3.0, 5.0, 7.0, 11.0, 13.0, 17.0, 19.0])
  value, pullback = jax.vjp(lambda x, clip: quantizers.pact(x, clip, bits).value, x, clip)
  gradient_x, gradient_clip = pullback(g)
  chex.assert_trees_all_close(gradient_x, to_x * g, rtol=1e-6)
  chex.assert_trees_all_close(gradient_clip, jnp.sum(to_clip * g), rtol=1e-6)
  # What is at alpha stays alpha, what is below zero is zero.
  chex.assert_trees_all_close(value[-3:], jnp.full(3, 2.0), rtol=1e-6)
  chex.assert_trees_all_equal(value[:3], jnp.zeros(3))


def test_pact_scale_carries_no_gradient():
  # The codes' backward rule holds it already; a second time would count alpha twice.
  gradient = jax.grad(lambda clip: quantizers.pact(jnp.ones(3), clip, 8).scale)(jnp.asarray(2.0))
  assert gradient == 0


@pytest.mark.parametrize('clip', [0.0, -1.0, 1e-30])
@pytest.mark.parametrize('bits', [1, 8])
def test_a_clip_at_or_below_zero_gives_numbers_and_is_trained(clip: float, bits: int):
  x = jnp.asarray([-1.0, 0.0, 1e-4, 1.0])
  activation = quantizers.pact(x, jnp.asarray(clip), bits)
  chex.assert_tree_all_finite(activation)
  assert activation.scale > 0
  assert np.all((activation.code >= 0) & (activation.code <= 2**bits - 1))
  gradients = jax.grad(lambda x, c: jnp.sum(quantizers.pact(x, c, bits).value), (0, 1))(
    x, jnp.asarray(clip)
  )
  chex.assert_tree_all_finite(gradients)
  # One element is above the clip, which alone can bring it back up.
  np.testing.assert_allclose(gradients[1], 1, rtol=1e-6)


def test_pact_passes_nan_on():
  # The training step counts non-finite losses; a NaN that became 0 would hide.
  x = jnp.asarray([1.0, jnp.nan])
  np.testing.assert_array_equal(
    np.isnan(quantizers.pact(x, jnp.asarray(6.0), 8).code), [False, True]
  )


def test_32_bit_activations_are_a_relu():
  x = jnp.asarray([-1.0, 0.0, 0.3, 100.0])
  activation = quantizers.pact(x, jnp.asarray(0.0), 32)
  chex.assert_trees_all_equal(activation.value, jnp.asarray([0.0, 0.0, 0.3, 100.0]))
  assert activation.scale == 1
  gradient = jax.grad(lambda x: jnp.sum(quantizers.pact(x, jnp.asarray(0.0), 32).value))(x)
  chex.assert_trees_all_equal(gradient, jnp.asarray([0.0, 0.0, 1.0, 1.0]))


@pytest.mark.parametrize('width', [1, 2, 8, 16])
def test_integer_kernel(width: int):
  codes = jnp.arange(2.0**width)
  kernel, scale = quantizers.integer_kernel(codes, width)
  top = 2**width - 1
  np.testing.assert_array_equal(kernel, np.arange(-top, top + 1, 2))
  assert scale == 1 / top


def test_images_become_centred_integers():
  images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
  activation = quantizers.image_codes(jnp.asarray(images))
  np.testing.assert_array_equal(activation.code.ravel(), np.arange(-128, 128))
  assert activation.code.dtype == jnp.float32
  with pytest.raises(TypeError, match=r'images are float32: .*uint8'):
    quantizers.image_codes(jnp.zeros((1, 2, 2, 1)))


@pytest.mark.parametrize('width', [0, -1, 17, 31, 33])
def test_other_widths_are_refused_and_named(width: int):
  with pytest.raises(ValueError, match=f'ring 0={width}: give 1 to 16 bits, or 32'):
    quantizers.check_width('ring 0', width)


@pytest.mark.parametrize('width', [1, 2, 16, 32])
def test_widths_of_networks_are_accepted(width: int):
  assert quantizers.check_width('ring 0', width) == width


# The convolution.


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


@pytest.mark.parametrize('name', REFERENCES)
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


@pytest.mark.parametrize('name', REFERENCES)
@pytest.mark.parametrize('width', [1, 2, 8, 16])
@pytest.mark.parametrize('constant', [0.0, 0.3])
def test_equal_latents_have_finite_gradients(name: str, width: int, constant: float):
  quantize = getattr(quantizers, name)
  gradient = jax.grad(lambda w: jnp.sum(quantize(w, width)))(jnp.full((3, 3, 2, 2), constant))
  assert np.all(np.isfinite(gradient))


def test_pact_breaks_ties_as_the_method_writes_them():
  # 1.0 * 255 / 2.0 is 127.5 exactly, which rounds to the even 128; 1.0 / (2.0 / 255) is not.
  assert quantizers.pact(jnp.asarray(1.0), jnp.asarray(2.0), 8).code == 128


@pytest.mark.parametrize('bits', [2, 3, 8])
def test_signed_pact_on_every_level(bits):
  top = 2 ** (bits - 1) - 1
  clip = 1.5
  codes = jnp.arange(-top, top + 1, dtype=jnp.float32)
  levels = codes * clip / top
  found = quantizers.pact(levels, jnp.float32(clip), bits, signed=True)
  np.testing.assert_array_equal(found.code, codes)
  beyond = quantizers.pact(jnp.array([-9.0, 9.0]), jnp.float32(clip), bits, signed=True)
  np.testing.assert_allclose(beyond.value, [-clip, clip], rtol=1e-6)


def test_signed_pact_gradients_are_those_of_the_clipped_values():
  x = jnp.array([-3.0, -1.5, -0.4, 0.0, 0.7, 1.5, 2.0])

  def value(x, clip):
    return quantizers.pact(x, clip, 4, signed=True).value

  _, transpose = jax.vjp(value, x, jnp.float32(1.5))
  to_x, to_clip = transpose(jnp.arange(1.0, 8.0))
  np.testing.assert_allclose(to_x, [0, 0, 3, 4, 5, 0, 0], rtol=1e-6)
  np.testing.assert_allclose(to_clip, -1 - 2 + 6 + 7, rtol=1e-6)


def test_signed_float_is_the_identity_and_one_signed_bit_is_refused():
  x = jnp.array([-2.0, 3.0])
  np.testing.assert_array_equal(quantizers.pact(x, jnp.zeros(()), 32, signed=True).value, x)
  with pytest.raises(ValueError, match='signed activations have 2 bits at least'):
    quantizers.pact(x, jnp.ones(()), 1, signed=True)


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


@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
def test_bfloat16_reaches_the_accelerator_with_float32_sums(platform: str):
  x = jax.ShapeDtypeStruct((2, 5, 5, 3), jnp.float32)
  kernel = jax.ShapeDtypeStruct((3, 3, 3, 4), jnp.float32)
  convolve = jax.jit(lambda x, kernel: convolution.convolve(x, kernel, (1, 1), jnp.bfloat16))
  program = export.export(convolve, platforms=[platform])(x, kernel).mlir_module()
  (line,) = (each for each in program.splitlines() if 'stablehlo.convolution' in each)
  operands, result = line.rsplit(' : ', 1)[1].split(' -> ')
  assert operands == '(tensor<2x5x5x3xbf16>, tensor<3x3x3x4xbf16>)'
  assert result.startswith('tensor<2x5x5x4xf32>')
