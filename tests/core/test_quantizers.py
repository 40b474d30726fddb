import itertools
import math
from typing import Any, get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from dpoq_jax import config
from dpoq_jax.core import quantizers
from dpoq_jax.network import from_config

# A second implementation of the quantizers, in NumPy and float64. `np.rint` rounds ties to even.


def reference_dorefa(latent: np.ndarray, width: int) -> np.ndarray:
  squashed = np.tanh(latent)
  unit = squashed / (2 * np.abs(squashed).max()) + 0.5
  return np.rint(unit * (2**width - 1))


def round_between(standard: np.ndarray, bound: float, width: int) -> np.ndarray:
  return np.rint((np.clip(standard, -bound, bound) + bound) / (2 * bound) * (2**width - 1))


def reference_standardised(latent: np.ndarray, width: int) -> np.ndarray:
  standard = (latent - latent.mean()) / latent.std()
  return round_between(standard, 1.7 if width <= 2 else 2.5, width)


def reference_standardised_least_error(latent: np.ndarray, width: int) -> np.ndarray:
  standard = (latent - latent.mean()) / latent.std()
  return round_between(standard, quantizers.least_error_clip(width), width)


def reference_standardised_per_channel(latent: np.ndarray, width: int) -> np.ndarray:
  return np.stack(
    [reference_standardised_least_error(channel, width) for channel in np.moveaxis(latent, -1, 0)],
    axis=-1,
  )


def reference_pact(x: np.ndarray, clip: float, bits: int) -> np.ndarray:
  return np.rint(np.minimum(np.maximum(x, 0), clip) * (2**bits - 1) / clip)


def latent(shape=(3, 3, 4, 5), dtype: Any = np.float64, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).normal(0, 0.3, shape).astype(dtype)


REFERENCES = {
  'dorefa': reference_dorefa,
  'standardised': reference_standardised,
  'standardised_least_error': reference_standardised_least_error,
  'standardised_per_channel': reference_standardised_per_channel,
}
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
  expected = {0.0: 2, 1.0: 3, -1.0: 0}[constant] if name == 'dorefa' else 2
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


@pytest.mark.parametrize('name', [name for name in REFERENCES if name != 'dorefa'])
@pytest.mark.parametrize('width', [1, 2, 4, 8])
def test_standardised_gradient_by_hand(name: str, width: int):
  w = latent((3, 3, 64, 5))
  g = np.random.default_rng(1).normal(size=w.shape)
  bound = quantizers.least_error_clip(width)
  if name == 'standardised':
    bound = 1.7 if width <= 2 else 2.5
  axes = (0, 1, 2) if name == 'standardised_per_channel' else None

  def mean(x: np.ndarray) -> np.ndarray:
    return x.mean(axes, keepdims=True)

  deviation = w.std(axes, keepdims=True)
  standard = (w - mean(w)) / deviation
  # Straight through within the clip, nothing outside of it.
  inside = g * (np.abs(standard) < bound) * (2**width - 1) / (2 * bound)
  if bound < 3:
    assert np.any(np.abs(standard) > bound)
  # Through mean and deviation, as of any standardisation.
  expected = (inside - mean(inside) - standard * mean(inside * standard)) / deviation
  with jax.enable_x64(True):
    quantize = getattr(quantizers, name)
    gradient = jax.grad(lambda w: jnp.sum(g * quantize(w, width)))(jnp.asarray(w))
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-11)


def error_of_normal(clip: float, width: int) -> float:
  """Mean squared error of a standard normal that is rounded to 2**width levels, by quadrature."""
  levels = np.linspace(-clip, clip, 2**width)
  edges = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])

  def part(level: float, low: float, high: float) -> float:
    def integrand(x: float) -> float:
      return (x - level) ** 2 * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)

    return integrate.quad(integrand, low, high, epsabs=0, epsrel=1e-11)[0]

  return math.fsum(map(part, levels, edges[:-1], edges[1:]))


@pytest.mark.parametrize('width', [1, 2, 3, 4, 8])
def test_the_clip_of_least_error_is_the_minimum_of_the_integrated_error(width: int):
  clip = quantizers.least_error_clip(width)
  at = [error_of_normal(clip * factor, width) for factor in (0.99, 0.9999, 1, 1.0001, 1.01)]
  assert at[0] > at[1] > at[2] < at[3] < at[4]
  # No second minimum elsewhere.
  assert all(error_of_normal(other, width) > at[2] for other in (0.3, 0.6, 1.2, 1.8, 2.3, 3.1, 6.0))
  if width == 1:
    # Of two levels each is the mean of its half.
    assert clip == pytest.approx(math.sqrt(2 / math.pi), abs=1e-8)


def test_wider_rings_are_clipped_less():
  clips = [quantizers.least_error_clip(width) for width in range(1, 17)]
  assert all(0.2 < high - low < 0.7 for low, high in itertools.pairwise(clips))


def test_channels_are_quantized_apart():
  w = jnp.asarray(latent((3, 3, 4, 5), np.float32))
  codes = quantizers.standardised_per_channel(w, 3)
  # Another scale and offset of one channel changes no code of any.
  changed = w.at[..., 2].set(5 * w[..., 2] + 1)
  np.testing.assert_array_equal(quantizers.standardised_per_channel(changed, 3), codes)
  assert np.any(quantizers.standardised_least_error(changed, 3)[..., 0] != codes[..., 0])
  # Depthwise: the nine weights of a channel are all there is of it.
  depthwise = jnp.asarray(latent((3, 3, 1, 6), np.float32))
  codes = quantizers.standardised_per_channel(depthwise, 2)
  for channel in range(6):
    alone = quantizers.standardised_least_error(depthwise[..., channel], 2)
    np.testing.assert_array_equal(codes[..., channel], alone)
    assert len(np.unique(alone)) > 1


@pytest.mark.parametrize('name', REFERENCES)
def test_outliers_stay_in_range(name: str):
  w = latent((3, 3, 4, 5), np.float32)
  w[0, 0, 0] = [1e4, -1e4, 1e30, 0, 1]
  for width in WIDTHS:
    codes = np.asarray(getattr(quantizers, name)(jnp.asarray(w), width))
    assert codes.min() >= 0
    assert codes.max() <= 2**width - 1


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


@pytest.mark.parametrize('name', REFERENCES)
@pytest.mark.parametrize('width', [1, 2, 8, 16])
@pytest.mark.parametrize('constant', [0.0, 0.3])
def test_equal_latents_have_finite_gradients(name: str, width: int, constant: float):
  quantize = getattr(quantizers, name)
  gradient = jax.grad(lambda w: jnp.sum(quantize(w, width)))(jnp.full((3, 3, 2, 2), constant))
  assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize(
  'name', ['standardised', 'standardised_least_error', 'standardised_per_channel']
)
@pytest.mark.parametrize('constant', [0.1, 1 / 3, -0.7, 1e-6, 1e6])
def test_gradients_of_equal_latents_are_not_divided_by_rounding(name: str, constant: float):
  shape, quantize = (3, 3, 13, 17), getattr(quantizers, name)
  cotangent = jax.random.normal(jax.random.key(0), shape)
  gradient = jax.grad(lambda w: jnp.sum(cotangent * quantize(w, 4)))(jnp.full(shape, constant))
  # Of latents of deviation 1 it is at most 15 codes over twice the clip.
  assert jnp.max(jnp.abs(gradient)) < 15 / (2 * 2.5) * 5


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
