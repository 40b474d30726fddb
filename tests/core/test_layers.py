from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpoq_jax import onion
from dpoq_jax.core import layers, normalisation, quantizers
from dpoq_jax.core.normalisation import PrecisionShiftBatchNorm, VanillaMergeBatchNorm
from dpoq_jax.core.quantizers import Activation
from dpoq_jax.core.spec import LayerOptions, Merge, PathSpec

BITS = (2, 4, 8)
SHAPE = (4, 3, 5, 6)
CHANNELS = SHAPE[-1]


def spec(index: int, bits=BITS, activation_bits: int = 8, **options: Any) -> PathSpec:
  # float64, so that the references below can be compared to the last digits.
  options = {'compute_dtype': jnp.float64, **options}
  return PathSpec(bits, index, activation_bits, LayerOptions(**options))


def normal(seed: int, shape=SHAPE, mean: float = 0.0, deviation: float = 1.0) -> np.ndarray:
  return np.random.default_rng(seed).normal(mean, deviation, shape)


def convolved(y: Any) -> Activation:
  """What a convolution hands its normalisation: here not integers, but with a scale."""
  return Activation(jnp.asarray(y) / 0.25, jnp.asarray(0.25, jnp.asarray(y).dtype))


def activations(bits: int = 8) -> Activation:
  codes = np.random.default_rng(0).integers(0, 2**bits, (2, 5, 5, 3)).astype(np.float64)
  return Activation(jnp.asarray(codes), jnp.asarray(0.02))


def apply(module: nn.Module, variables: Any, *args: Any, **kwargs: Any) -> Any:
  return module.apply(variables, *args, **kwargs)


def convolve_values(x: jax.Array, kernel: Any, strides: tuple[int, int] = (1, 1)) -> jax.Array:
  return jax.lax.conv_general_dilated(
    x,
    jnp.asarray(kernel, x.dtype),
    strides,
    [(1, 1), (1, 1)],
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


# Precision-shift batch norm (eq. 8).


def psbn_case(index: int) -> tuple[dict[str, Any], dict[str, Any], list[np.ndarray]]:
  """Parameters, statistics and laterals of a PSBN of path `index`, none at its initial value."""
  params = {'scale': normal(1, CHANNELS, 1, 0.2), 'bias': normal(2, CHANNELS)}
  for j in range(index):
    params[f'shift_from_{BITS[j]}'] = normal(3 + j, CHANNELS)
  statistics = {'mean': normal(8, CHANNELS), 'var': normal(9, CHANNELS) ** 2 + 0.1}
  return params, statistics, [normal(20 + j) for j in range(index)]


def apply_psbn(index, y, train, params, statistics, laterals, mutable=(), **options):
  variables = {
    'params': params,
    f'psbn_{BITS[index]}': statistics,
    **{f'lateral_{BITS[j]}': {'z': jnp.asarray(z)} for j, z in enumerate(laterals)},
  }
  module = PrecisionShiftBatchNorm(spec(index, **options))
  variables = jax.tree.map(jnp.asarray, variables)
  return apply(module, variables, convolved(y), train, mutable=list(mutable))


def merged(params: dict[str, Any], z: np.ndarray, laterals: list[np.ndarray]) -> np.ndarray:
  shifts = sum(params[f'shift_from_{BITS[j]}'] * lower for j, lower in enumerate(laterals))
  return params['scale'] * z + shifts + params['bias']


@pytest.mark.parametrize('index', [0, 1, 2])
@pytest.mark.parametrize(('momentum', 'epsilon'), [(0.9, 1e-5), (0.5, 0.3)])
def test_psbn_in_training_equals_the_reference(index: int, momentum: float, epsilon: float):
  params, statistics, laterals = psbn_case(index)
  y = normal(10, mean=3, deviation=2)
  mean = y.mean((0, 1, 2))
  var = ((y - mean) ** 2).mean((0, 1, 2))
  z = (y - mean) / np.sqrt(var + epsilon)
  own, higher = f'psbn_{BITS[index]}', f'lateral_{BITS[index]}'
  with jax.enable_x64(True):
    out, updates = apply_psbn(
      index,
      y,
      True,
      params,
      statistics,
      laterals,
      mutable=(own, higher),
      momentum=momentum,
      epsilon=epsilon,
    )
    np.testing.assert_allclose(out, merged(params, z, laterals), rtol=1e-12, atol=1e-12)
    # Handed up: z before any affine map.
    handed_up = updates[higher]['z']
    assert isinstance(handed_up, normalisation.Normalised)
    np.testing.assert_allclose(handed_up.value, z, rtol=1e-12, atol=1e-12)
    assert set(updates) == {own, higher}
    for name, batch in (('mean', mean), ('var', var)):
      running = momentum * statistics[name] + (1 - momentum) * batch
      np.testing.assert_allclose(updates[own][name], running, rtol=1e-13)


@pytest.mark.parametrize('index', [0, 1, 2])
def test_psbn_in_evaluation_equals_the_reference(index: int):
  params, statistics, laterals = psbn_case(index)
  y = normal(10, mean=3, deviation=2)
  z = (y - statistics['mean']) / np.sqrt(statistics['var'] + 1e-5)
  own, higher = f'psbn_{BITS[index]}', f'lateral_{BITS[index]}'
  with jax.enable_x64(True):
    out, updates = apply_psbn(index, y, False, params, statistics, laterals, mutable=(own, higher))
    np.testing.assert_allclose(out, merged(params, z, laterals), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(updates[higher]['z'], z, rtol=1e-12, atol=1e-12)
    # Evaluation writes no statistics, even where it may.
    chex.assert_trees_all_equal(updates.get(own, statistics), statistics)


@pytest.mark.parametrize('index', [0, 2])
def test_psbn_gradients_equal_differences(index: int):
  # Through the batch's statistics, to the laterals, and to every affine parameter.
  params, statistics, laterals = psbn_case(index)
  g = normal(11)

  def loss(y, params, laterals):
    return jnp.sum(g * apply_psbn(index, y, True, params, statistics, laterals)[0])

  with jax.enable_x64(True):
    case = jax.tree.map(jnp.asarray, (normal(10, mean=3, deviation=2), params, laterals))
    gradients = jax.grad(loss, (0, 1, 2))(*case)
    direction = jax.tree.map(lambda leaf: jnp.asarray(normal(12, leaf.shape)), case)
    step = 1e-5
    ends = [
      loss(*jax.tree.map(lambda x, d, s=s: x + s * d, case, direction)) for s in (step, -step)
    ]
    slope = sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), gradients, direction)))
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-7)
    for j, lower in enumerate(laterals):
      shift = params[f'shift_from_{BITS[j]}']
      np.testing.assert_allclose(gradients[2][j], g * shift, rtol=1e-12)
      np.testing.assert_allclose(
        gradients[1][f'shift_from_{BITS[j]}'], (g * lower).sum((0, 1, 2)), rtol=1e-10
      )


def test_psbn_starts_as_a_network_of_its_own():
  laterals = {f'lateral_{b}': {'z': jnp.asarray(normal(b), jnp.float32)} for b in (2, 4)}
  y = jnp.asarray(normal(10, mean=3, deviation=2), jnp.float32)
  for shift_init in (0.0, 0.5):
    module = PrecisionShiftBatchNorm(spec(2, shift_init=shift_init, compute_dtype=jnp.bfloat16))
    _, created = apply(
      module,
      laterals,
      convolved(y),
      False,
      rngs={'params': jax.random.key(0)},
      mutable=['params', 'psbn_8'],
    )
    shift = jnp.full(CHANNELS, shift_init)
    one, zero = jnp.ones(CHANNELS), jnp.zeros(CHANNELS)
    # Parameters and statistics stay float32 whatever the operands are.
    expected = {'scale': one, 'bias': zero, 'shift_from_2': shift, 'shift_from_4': shift}
    chex.assert_trees_all_equal(created['params'], expected)
    chex.assert_trees_all_equal(created['psbn_8'], {'mean': zero, 'var': one})
    chex.assert_trees_all_equal_dtypes(created['params'], expected)


def test_the_forward_pass_of_init_is_no_batch():
  module = PrecisionShiftBatchNorm(spec(0, compute_dtype=jnp.float32))
  y = jnp.asarray(normal(10, mean=3, deviation=2), jnp.float32)
  statistics = module.init(jax.random.key(0), convolved(y), True)['psbn_2']
  expected = {'mean': jnp.zeros(CHANNELS), 'var': jnp.ones(CHANNELS)}
  chex.assert_trees_all_equal(statistics, expected)


def test_running_statistics_carry_no_gradient():
  params, statistics, _ = psbn_case(0)

  def running(y):
    _, updates = apply_psbn(0, y, True, params, statistics, [], mutable=('psbn_2',))
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(updates['psbn_2']))

  with jax.enable_x64(True):
    assert not np.any(jax.grad(running)(jnp.asarray(normal(10))))


def test_what_is_handed_up_is_kept_only_if_asked_for():
  params, statistics, _ = psbn_case(0)
  with jax.enable_x64(True):
    _, updates = apply_psbn(0, normal(10), True, params, statistics, [], mutable=('psbn_2',))
  assert set(updates) == {'psbn_2'}


# Convolution.


@pytest.mark.parametrize('bits', [(2, 4, 8), (1, 2, 3), (3, 16), (1,)])
@pytest.mark.parametrize('strides', [(1, 1), (2, 2)])
def test_conv_from_latents_equals_conv_from_packed_integers(bits, strides):
  latents = [jnp.asarray(normal(j, (3, 3, 3, 4)), jnp.float32) for j in range(len(bits))]
  widths = onion.ring_widths(bits)
  for quantizer in (quantizers.dorefa, quantizers.standardised):
    codes = [quantizer(w, r) for w, r in zip(latents, widths, strict=True)]
    packed = onion.pack(codes, bits)
    for index, width in enumerate(widths):
      conv = layers.OnionConv(
        spec(index, bits, compute_dtype=jnp.float32, weight_quantizer=quantizer),
        features=4,
        strides=strides,
      )
      x = Activation(*(leaf.astype(jnp.float32) for leaf in activations()))
      from_latent = apply(conv, {'params': {'latent': latents[index]}}, x).value
      from_packed = apply(conv, {'onion': {'kernel': packed}}, x).value
      chex.assert_trees_all_equal(from_packed, from_latent)
      # And both are the convolution of the values.
      kernel = onion.value(np.asarray(codes[index]), width).astype(np.float64)
      expected = convolve_values(x.value, kernel, strides)
      np.testing.assert_allclose(from_latent, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_32_bit_conv_convolves_its_latent():
  latent = jnp.asarray(normal(0, (3, 3, 3, 4)), jnp.float32)
  x = Activation(*(leaf.astype(jnp.float32) for leaf in activations()))
  conv = layers.OnionConv(spec(0, (32,), compute_dtype=jnp.float32), features=4)
  y = apply(conv, {'params': {'latent': latent}}, x).value
  expected = convolve_values(x.value, latent)
  np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
  chex.assert_trees_all_equal(apply(conv, {'onion': {'kernel': latent}}, x).value, y)


def test_conv_creates_a_latent_of_the_kernel_shape():
  conv = layers.OnionConv(spec(1, compute_dtype=jnp.bfloat16), features=7, kernel_size=(1, 1))
  x = Activation(jnp.zeros((1, 4, 4, 3)), jnp.ones(()))
  variables: Any = conv.init(jax.random.key(0), x)
  assert set(variables) == {'params'}
  assert set(variables['params']) == {'latent'}
  chex.assert_shape(variables['params']['latent'], (1, 1, 3, 7))
  assert variables['params']['latent'].dtype == jnp.float32


# Clips.


def test_pact_owns_one_clip():
  module = layers.PACT(spec(0, clip_init=3.0, compute_dtype=jnp.float32))
  x = jnp.asarray([-1.0, 0.5, 9.0])
  variables = module.init(jax.random.key(0), x)
  chex.assert_trees_all_equal(dict(variables), {'params': {'clip': jnp.asarray(3.0)}})
  activation = apply(module, {'params': {'clip': jnp.asarray(2.0)}}, x)
  # 0.5 * 255 / 2 = 63.75.
  chex.assert_trees_all_equal(activation.code, jnp.asarray([0.0, 64.0, 255.0]))
  np.testing.assert_allclose(activation.scale, 2 / 255, rtol=1e-6)


def test_pact_of_32_bits_has_no_clip():
  module = layers.PACT(spec(0, activation_bits=32, compute_dtype=jnp.float32))
  x = jnp.asarray([-1.0, 1.0, 9.0])
  assert not module.init(jax.random.key(0), x)
  chex.assert_trees_all_equal(apply(module, {}, x).value, jnp.asarray([0.0, 1.0, 9.0]))


# Vanilla merge: on the convolutions' outputs, the nesting identity.


@pytest.mark.parametrize('bits', [(2, 4, 8), (1, 2, 3), (3, 16), (4, 5, 6, 7)])
def test_vanilla_merge_convolves_the_whole_weight(bits: tuple[int, ...]):
  # All paths see the same activations, so that the sums can be one convolution.
  generator = np.random.default_rng(0)
  packed = generator.integers(0, 2 ** bits[-1], (3, 3, 3, 4), dtype=np.uint32)
  packed = packed.astype(onion.packed_dtype(bits))
  laterals: dict[str, Any] = {}
  with jax.enable_x64(True):
    x = activations()
    for index, precision in enumerate(bits):
      path = spec(index, bits, merge=Merge.VANILLA)
      y = apply(layers.OnionConv(path, features=4), {'onion': {'kernel': packed}}, x)
      own, up = f'psbn_{precision}', f'lateral_{precision}'
      statistics = {'mean': jnp.asarray(normal(1, 4)), 'var': jnp.asarray([0.5, 1.0, 2.0, 3.0])}
      params = {'scale': jnp.asarray(normal(2, 4)), 'bias': jnp.asarray(normal(3, 4))}
      out, updates = apply(
        VanillaMergeBatchNorm(path),
        {'params': params, own: statistics, **laterals},
        y,
        False,
        mutable=[up],
      )
      laterals[up] = updates[up]
      weight = np.asarray(onion.truncate(packed, bits, precision)).astype(np.float64)
      value = 2 * weight / (2**precision - 1) - 1
      whole = np.asarray(convolve_values(x.value, value))
      np.testing.assert_allclose(updates[up]['z'], whole, rtol=1e-12, atol=1e-12)
      # Then an ordinary batch norm.
      mean, var = np.asarray(statistics['mean']), np.asarray(statistics['var'])
      normalised = (whole - mean) / np.sqrt(var + 1e-5)
      expected = np.asarray(params['scale']) * normalised + np.asarray(params['bias'])
      np.testing.assert_allclose(out, expected, rtol=1e-11, atol=1e-11)


def test_vanilla_merge_normalises_the_merged_output_in_training():
  y, lower = normal(10, mean=3, deviation=2), normal(11, mean=-5)
  # bits (2, 4): s_l = 4 * 3 / 15, s_r = 3 / 15.
  whole = 0.8 * lower + 0.2 * y
  mean, var = whole.mean((0, 1, 2)), whole.var((0, 1, 2))
  with jax.enable_x64(True):
    variables = {
      'params': {'scale': jnp.ones(CHANNELS), 'bias': jnp.zeros(CHANNELS)},
      'psbn_4': {'mean': jnp.zeros(CHANNELS), 'var': jnp.ones(CHANNELS)},
      'lateral_2': {'z': jnp.asarray(lower)},
    }
    module = VanillaMergeBatchNorm(spec(1, (2, 4)))
    out, updates = apply(module, variables, convolved(y), True, mutable=['psbn_4', 'lateral_4'])
    np.testing.assert_allclose(out, (whole - mean) / np.sqrt(var + 1e-5), rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(updates['psbn_4']['mean'], 0.1 * mean, rtol=1e-12)
    np.testing.assert_allclose(updates['psbn_4']['var'], 0.9 + 0.1 * var, rtol=1e-12)


@pytest.mark.parametrize('merge', Merge)
def test_conv_norm_is_the_convolution_then_the_merge(merge: Merge):
  path = spec(0, merge=merge, compute_dtype=jnp.float32)
  x = Activation(*(leaf.astype(jnp.float32) for leaf in activations()))
  block = layers.ConvNorm(path, features=4, strides=(2, 2))
  variables = block.init(jax.random.key(0), x, False)
  out = apply(block, variables, x, False)
  conv = layers.OnionConv(path, features=4, strides=(2, 2))
  y = apply(conv, {'params': variables['params']['conv']}, x).value
  chex.assert_shape(y, (2, 3, 3, 4))
  # At the start both merges divide by sqrt(1 + eps) and no more.
  np.testing.assert_allclose(out, y / np.sqrt(1 + 1e-5), rtol=1e-6, atol=1e-7)
