"""PACT: the integers of activations, their scale, and the gradients to inputs and clip."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpoq_jax.core import quantizers

WIDTHS = [1, 2, 3, 4, 8, 12, 16]


def reference_pact(x: np.ndarray, clip: float, bits: int) -> np.ndarray:
  return np.rint(np.minimum(np.maximum(x, 0), clip) * (2**bits - 1) / clip)


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
