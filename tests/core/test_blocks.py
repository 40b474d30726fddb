"""What model files are built of: the names of the parts, and the options that reach them."""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dpoq_jax.core import layers
from dpoq_jax.core.quantizers import Activation
from dpoq_jax.core.spec import LayerOptions, PathSpec

SPEC = PathSpec((2, 4), 0, 8)


def ones(shape: tuple[int, ...] = (2, 6, 6, 3), dtype: Any = jnp.float32) -> Activation:
  return Activation(jnp.ones(shape, dtype), jnp.ones((), dtype))


def init(module: nn.Module, *args: Any) -> tuple[Any, Any]:
  """The output of a module at its start, and its variables."""
  return module.init_with_output(jax.random.key(0), *args)


def test_a_block_is_a_convolution_and_a_norm_of_that_name():
  _, variables = init(layers.ConvNorm(SPEC, features=6), ones(), False)
  params = variables['params']
  assert set(params) == {'conv', 'norm'}
  chex.assert_shape(params['conv']['latent'], (3, 3, 3, 6))
  assert set(params['norm']) == {'scale', 'bias'}


def test_kernel_size_strides_and_groups_reach_the_convolution():
  block = layers.ConvNorm(SPEC, features=6, kernel_size=(1, 3), strides=(1, 2), groups=3)
  out, variables = init(block, ones(), False)
  # A channel of the input is all that a group sees.
  chex.assert_shape(variables['params']['conv']['latent'], (1, 3, 1, 6))
  chex.assert_shape(out, (2, 6, 3, 6))


def test_a_block_in_training_is_normalised_by_its_batch():
  images = Activation(jax.random.normal(jax.random.key(1), (4, 5, 5, 3)), jnp.ones(()))
  block = layers.ConvNorm(SPEC, features=6)
  _, variables = init(block, images, False)
  out, updates = block.apply(variables, images, True, mutable=['psbn_2'])
  np.testing.assert_allclose(jnp.mean(out, (0, 1, 2)), jnp.zeros(6), atol=1e-5)
  np.testing.assert_allclose(jnp.var(out, (0, 1, 2)), jnp.ones(6), rtol=1e-3)
  assert np.any(updates['psbn_2']['norm']['mean'] != 0)


def test_latents_and_clips_are_of_the_parameters_dtype():
  with jax.enable_x64(True):
    for operands, latent in ((jnp.float64, jnp.float64), (jnp.bfloat16, jnp.float32)):
      spec = PathSpec((2, 4), 0, 8, LayerOptions(compute_dtype=operands))
      y, variables = init(layers.OnionConv(spec, features=4), ones((1, 3, 3, 2), latent))
      assert variables['params']['latent'].dtype == latent
      assert y.code.dtype == y.scale.dtype == latent
      _, variables = init(layers.PACT(spec), y.code)
      assert variables['params']['clip'].dtype == latent


def test_signed_clips_keep_negative_values():
  x = jnp.asarray([-9.0, 0.5, 9.0])
  found, variables = init(layers.PACT(SPEC, signed=True), x)
  # The clip starts at 6: 0.5 * 127 / 6 is 10.6.
  np.testing.assert_array_equal(found.code, [-127, 11, 127])
  np.testing.assert_allclose(found.scale, 6 / 127, rtol=1e-6)
  assert set(variables['params']) == {'clip'}


def test_signed_activations_of_32_bits_are_the_input_itself():
  x = jnp.asarray([-9.0, 0.5, 9.0])
  found, variables = init(layers.PACT(PathSpec(), signed=True), x)
  np.testing.assert_array_equal(found.value, x)
  assert not variables
