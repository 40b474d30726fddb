from typing import Any

import jax
from jax.extend import core as jax_core
import jax.numpy as jnp
import numpy as np
import pytest

from dpoq_jax.core import normalisation
from dpoq_jax.core.normalisation import Normalised

SHAPE = (4, 3, 5, 6)
AXES = (0, 1, 2)
PATHS = 3
EPSILON = 1e-5


def normal(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
  return np.random.default_rng(seed).normal(size=shape)


def case() -> tuple[list[jax.Array], dict[tuple[int, int], jax.Array], list[jax.Array]]:
  """What three paths' convolutions give, weights[k, j] of path j's features in path k, biases."""
  # Means up to ten deviations from 0: what is not centred in time loses digits.
  tensors = [jnp.asarray(normal(k) + 5 * normal(10 + k, SHAPE[-1:])) for k in range(PATHS)]
  weights = {
    (k, j): jnp.asarray(normal(20 + 10 * k + j, SHAPE[-1:]))
    for k in range(PATHS)
    for j in range(k + 1)
  }
  return tensors, weights, [jnp.asarray(normal(50 + k, SHAPE[-1:])) for k in range(PATHS)]


def as_written(tensors, weights, biases):
  """Eq. 8 with every z multiplied out, for autodiff to make what it can of."""
  zs = [
    (x - x.mean(AXES, keepdims=True)) / jnp.sqrt(x.var(AXES, keepdims=True) + EPSILON)
    for x in tensors
  ]
  return [
    sum(weights[k, j][None, None, None] * zs[j] for j in range(k + 1)) + bias[None, None, None]
    for k, bias in enumerate(biases)
  ]


def by_rule(tensors, weights, biases):
  zs = []
  for x in tensors:
    mean, var, rest = normalisation.moments(x)
    zs.append(Normalised(x, mean, jax.lax.rsqrt(var + EPSILON), rest))
  return [
    normalisation.merge(zs[k::-1], [weights[k, j] for j in range(k, -1, -1)], bias)
    for k, bias in enumerate(biases)
  ]


@pytest.mark.parametrize(('dtype', 'tolerance'), [(jnp.float64, 1e-12), (jnp.float32, 1e-5)])
def test_the_rules_equal_autodiff_of_the_plain_form(dtype, tolerance: float):
  def loss(form, arguments):
    # Not linear, so that every cotangent is one of its own.
    return sum(jnp.sum(jnp.sin(p)) for p in form(*arguments))

  with jax.enable_x64(True):
    expected_values = as_written(*case())
    expected = jax.grad(lambda a: loss(as_written, a))(case())
    arguments = jax.tree.map(lambda leaf: leaf.astype(dtype), case())
    values = by_rule(*arguments)
    gradients = jax.grad(lambda a: loss(by_rule, a))(arguments)
  for got, want in zip(
    jax.tree.leaves((values, gradients)), jax.tree.leaves((expected_values, expected)), strict=True
  ):
    assert got.dtype == dtype
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


@pytest.mark.parametrize('shape', [SHAPE, (32, 16, 16, 8)])
@pytest.mark.parametrize('ratio', [0, 10, 100])
def test_gradients_keep_their_digits_far_from_zero(ratio: float, shape: tuple[int, ...]):
  """In float32 against float64; the mean is `ratio` deviations from 0, as that of the cotangent."""
  channels = shape[-1:]
  x = (3 * normal(0, shape) + 3 * ratio).astype(np.float32)
  cotangent = (normal(1, shape) + 1).astype(np.float32)
  gamma, lower_gamma, bias = (normal(seed, channels).astype(np.float32) for seed in (2, 3, 4))
  # A lower path, too.
  lower = (normal(5, shape) - ratio).astype(np.float32)

  def gradients(dtype):
    def merged(own, other, *parameters):
      zs = []
      for tensor in (own, other):
        mean, var, rest = normalisation.moments(tensor)
        zs.append(Normalised(tensor, mean, jax.lax.rsqrt(var + EPSILON), rest))
      return normalisation.merge(zs, parameters[:2], parameters[2])

    arguments = [jnp.asarray(each, dtype) for each in (x, lower, gamma, lower_gamma, bias)]
    _, pullback = jax.vjp(merged, *arguments)
    return jax.jit(pullback)(jnp.asarray(cotangent, dtype))

  with jax.enable_x64(True):
    expected, got = gradients(jnp.float64), gradients(jnp.float32)
  for name, want, found in zip(
    ('x', 'lower', 'gamma', 'shift', 'bias'), expected, got, strict=True
  ):
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(
      found, want, rtol=0, atol=2e-6 * float(np.abs(want).max()), err_msg=name
    )


def test_moments_and_their_rule_equal_numpy():
  x, to_mean, to_var = normal(0), normal(1, SHAPE[-1:]), normal(2, SHAPE[-1:])
  with jax.enable_x64(True):
    moments, pullback = jax.vjp(normalisation.moments, jnp.asarray(x))
    # The third has no gradient, whatever comes to it.
    (gradient,) = pullback((jnp.asarray(to_mean), jnp.asarray(to_var), jnp.asarray(to_mean)))
  np.testing.assert_allclose(moments[0], x.mean(AXES), rtol=1e-12, atol=1e-14)
  np.testing.assert_allclose(moments[1], x.var(AXES), rtol=1e-12)
  expected = (to_mean + 2 * to_var * (x - x.mean(AXES))) / (x.size / SHAPE[-1])
  np.testing.assert_allclose(gradient, expected, rtol=1e-11, atol=1e-14)


def test_plain_features_of_fixed_paths_join_those_in_training():
  # Paths that are no longer trained run as in evaluation and hand up z itself.
  (x, lower, _), weights, biases = case()
  mean, var, rest = normalisation.moments(x)
  own = Normalised(x, mean, jax.lax.rsqrt(var + EPSILON), rest)
  terms = [own, Normalised(lower)]
  merged = normalisation.merge(terms, [weights[1, 1], weights[1, 0]], biases[0])
  factors = [weight[None, None, None] for weight in (weights[1, 1], weights[1, 0], biases[0])]
  expected = factors[0] * own.value + factors[1] * lower + factors[2]
  np.testing.assert_allclose(merged, expected, rtol=1e-5, atol=1e-4)


def test_the_backward_pass_sums_each_tensor_once():
  """Per path: its cotangent, and its product with each tensor it reads; the statistics none."""

  def loss(arguments):
    return sum(jnp.sum(jnp.sin(p)) for p in by_rule(*arguments))

  def sums(jaxpr) -> int:
    count = 0
    for equation in jaxpr.eqns:
      count += equation.primitive.name == 'reduce_sum' and len(equation.invars[0].aval.shape) == 4
      count += sum(sums(each) for each in jax_core.jaxprs_in_params(equation.params))
    return count

  forward = sums(jax.make_jaxpr(loss)(case()).jaxpr)
  both = sums(jax.make_jaxpr(jax.grad(loss))(case()).jaxpr)
  # Mean, variance and what is left of the mean, of each path; and the loss.
  assert forward == 4 * PATHS
  assert both - forward == PATHS + PATHS * (PATHS + 1) // 2


def test_no_centred_tensor_is_kept_for_the_backward_pass():
  """Three paths of three layers: 28 tensors were held at a time, where 9 are read again."""
  shape, layers = (16, 8, 8, 16), range(3)

  def loss(kernels: jax.Array, image: jax.Array) -> jax.Array:
    total, handed_up = jnp.zeros(()), {}
    for path in range(PATHS):
      x = image
      for layer in layers:
        y = jax.lax.conv_general_dilated(
          x, kernels[path, layer], (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
        )
        mean, var, rest = normalisation.moments(y)
        handed_up[path, layer] = Normalised(y, mean, jax.lax.rsqrt(var + EPSILON), rest)
        terms = [handed_up[k, layer] for k in range(path, -1, -1)]
        ones = [jnp.ones(shape[-1])] * len(terms)
        x = jax.nn.relu(normalisation.merge(terms, ones, jnp.zeros(shape[-1])))
      total += jnp.sum(jnp.square(x))
    return total

  kernels = jnp.zeros((PATHS, len(layers), 3, 3, shape[-1], shape[-1]))
  compiled = jax.jit(jax.grad(loss)).lower(kernels, jnp.zeros(shape)).compile()
  analysis: Any = compiled.memory_analysis()
  assert analysis.temp_size_in_bytes < 25 * 4 * np.prod(shape)
