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
  assert activation.scale == 1 / 128
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


def test_float_activations_are_jax_s_relu_also_in_gradient_and_at_its_edges():
  x = jnp.array([-jnp.inf, -2, -0.0, 0, 1e-30, 3, jnp.inf, jnp.nan])
  weights = jnp.arange(1.0, 9)

  def ours(x: jax.Array) -> jax.Array:
    activation = quantizers.pact(x, jnp.ones(()), 32)
    return activation.code * activation.scale

  for compiled in (lambda f: f, jax.jit):
    np.testing.assert_array_equal(compiled(ours)(x), jax.nn.relu(x))
    gradients = [
      compiled(jax.grad(lambda x, f=f: jnp.sum(weights * f(x))))(x) for f in (ours, jax.nn.relu)
    ]
    np.testing.assert_array_equal(*gradients)
