import dataclasses
import functools
from typing import Any

import flax.linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpoq_jax import onion
from dpoq_jax.core import layers, quantizers
from dpoq_jax.core.spec import LayerOptions, PathSpec
from dpoq_jax.models import resnet
from dpoq_jax.network import onion_network, shared_kernels
from dpoq_jax.network.trainable import TrainableNetwork
from dpoq_jax.training import objective
from tests.fast import jit

BITS = (2, 4, 8)
CLASSES = 5
IMAGES = jnp.asarray(np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8))
LABELS = jnp.asarray(np.random.default_rng(1).integers(0, CLASSES, 8), jnp.int32)


class OneBlock(nn.Module):
  """A ResNet of one block: layers inside of others, in half the time of three to compile."""

  spec: PathSpec = PathSpec()
  num_classes: int = CLASSES

  @nn.compact
  def __call__(self, images, train=False):
    x = layers.ConvNorm(self.spec, 4, name='stem')(quantizers.image_codes(images), train)
    x = layers.PACT(self.spec, name='stem_pact')(x)
    x = resnet.BasicBlock(self.spec, 8, 2, name='block')(x, train)
    return nn.Dense(self.num_classes, name='head')(x.value.mean(axis=(1, 2)))


def individual(bits: int, quantizer: Any = quantizers.dorefa) -> onion_network.Onion:
  options = LayerOptions(weight_quantizer=quantizer)
  return onion_network.Onion(OneBlock(), bits=(bits,), options=options)


def build(nested: bool) -> shared_kernels.SharedNetwork:
  quantizer = quantizers.floored if nested else quantizers.dorefa
  return shared_kernels.SharedNetwork(tuple(individual(b, quantizer) for b in BITS), nested)


@functools.lru_cache
def trained(nested: bool) -> tuple[shared_kernels.SharedNetwork, Any]:
  """A network whose running statistics have seen a batch."""
  network = build(nested)
  return network, with_statistics(network)


def with_statistics(network: TrainableNetwork) -> Any:
  """Fresh variables with running statistics that have seen a batch."""
  variables = jit(network.init)(jax.random.key(0), IMAGES)
  update = jit(lambda v: network.apply_and_update(v, IMAGES)[1])
  return {**variables, **update(variables)}


def test_kernels_and_classifier_are_shared_and_the_rest_is_switchable():
  network, variables = trained(nested=True)
  assert network.bits == BITS
  assert set(variables) == {'params', 'psbn_2', 'psbn_4', 'psbn_8'}
  assert set(variables['params']) == {'shared', 'path_2', 'path_4', 'path_8'}
  assert set(variables['params']['shared']['stem']) == {'conv'}
  assert set(variables['params']['shared']['head']) == {'kernel', 'bias'}
  assert set(variables['params']['path_2']['stem']['norm']) == {'scale', 'bias'}
  assert 'head' not in variables['params']['path_2']


def test_training_starts_where_an_individual_network_of_this_seed_does():
  alone = jit(individual(4).init)(jax.random.key(0), IMAGES)['params']['path_4']
  together = jit(build(nested=False).init)(jax.random.key(0), IMAGES)['params']['shared']
  np.testing.assert_array_equal(alone['stem']['conv']['latent'], together['stem']['conv']['latent'])
  np.testing.assert_array_equal(alone['head']['kernel'], together['head']['kernel'])


@pytest.mark.parametrize('nested', [True, False])
def test_gradient_of_shared_weights_is_the_sum_over_individual_networks(nested: bool):
  network, variables = trained(nested)
  params = variables['params']

  def loss(params):
    logits = network.apply({**variables, 'params': params}, IMAGES, train=True)
    return jnp.sum(objective.cross_entropy(logits, LABELS))

  together = jit(jax.grad(loss))(params)
  total = None
  for precision, alone in zip(BITS, network.networks, strict=True):
    name, statistics = f'path_{precision}', f'psbn_{precision}'
    # Written out, not by the network's own splitting: stem convolution and norm.
    own = jax.tree.map(lambda leaf: leaf, params[name])
    whole = {
      key: {**params['shared'].get(key, {}), **own.get(key, {})} for key in params['shared'] | own
    }
    whole['block'] = {
      layer: {**params['shared']['block'].get(layer, {}), **of_layer}
      for layer, of_layer in own['block'].items()
    }

    def loss_alone(p, alone=alone, name=name, statistics=statistics):
      own = {'params': {name: p}, statistics: variables[statistics]}
      return jnp.sum(objective.cross_entropy(alone.apply(own, IMAGES, train=True), LABELS))

    gradient = jit(jax.grad(loss_alone))(whole)
    np.testing.assert_allclose(
      together[name]['stem']['norm']['scale'], gradient['stem']['norm']['scale'], rtol=1e-4
    )
    parts = [gradient['block']['conv1']['conv']['latent'], gradient['head']['kernel']]
    total = parts if total is None else [a + b for a, b in zip(total, parts, strict=True)]
  for got, expected in zip(
    [together['shared']['block']['conv1']['conv']['latent'], together['shared']['head']['kernel']],
    total or [],
    strict=True,
  ):
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6 * float(jnp.max(jnp.abs(got))))


@pytest.mark.parametrize('nested', [True, False])
def test_frozen_logits_are_those_of_the_latents(nested: bool):
  network, variables = trained(nested)
  frozen = network.freeze(variables)
  kernel = frozen['onion']['stem']['conv']['kernel']
  assert kernel.dtype == (jnp.uint16 if nested else jnp.float32)
  for index in range(len(BITS)):
    # Not jitted: another program may round another way.
    output = network.run_path(frozen, index, IMAGES)
    assert not output.laterals
    np.testing.assert_array_equal(output.logits, network.run_path(variables, index, IMAGES).logits)
  with pytest.raises(ValueError, match='frozen already'):
    network.freeze(frozen)


# Few shapes, as each is compiled anew.
SHAPES = st.sampled_from([(1,), (2,), (5,), (3, 4)])


@settings(deadline=None)
@given(
  hnp.arrays(np.float32, SHAPES, elements=st.floats(-4, 4, width=32)),
  st.integers(1, 15),
  st.integers(1, 15),
)
def test_floored_codes_nest_in_those_of_more_bits(latent, low, more):
  high = min(low + more, 16)
  fine = np.asarray(quantizers.floored(jnp.asarray(latent), high)).astype(np.uint16)
  coarse = np.asarray(quantizers.floored(jnp.asarray(latent), low)).astype(np.uint16)
  np.testing.assert_array_equal(onion.truncate(fine, (high,), to=low), coarse)


def test_floored_parts_are_equal_and_gradients_pass_straight_through():
  # tanh of these, over twice the largest, plus a half: 0, 1/4, 1/2, 3/4 and 1.
  latent = jnp.arctanh(jnp.asarray([-0.5, -0.25, 0.0, 0.25, 0.5]))
  np.testing.assert_array_equal(quantizers.floored(latent, 2), [0, 1, 2, 3, 3])
  gradient = jax.grad(lambda w: jnp.sum(quantizers.floored(w, 2)))(latent)
  # d(4 u)/dw = 4 (1 - tanh(w)**2) / (2 * 0.5), the largest weight included.
  np.testing.assert_allclose(gradient, 4 * (1 - jnp.tanh(latent) ** 2), rtol=1e-6)


def test_sizes_count_floats_that_do_not_nest():
  for nested in (True, False):
    network, variables = trained(nested)
    sizes = network.stored_bytes(network.freeze(variables))
    weights = sum(leaf.size for leaf in jax.tree.leaves(network.freeze(variables)['onion']))
    expected = weights * 4 // 8 if nested else 0
    assert sizes[8] - sizes[4] > expected
    assert (sizes[8] > 4 * weights) is not nested


def test_bad_networks_and_precisions_are_refused():
  with pytest.raises(ValueError, match='increasing'):
    shared_kernels.SharedNetwork((individual(4), individual(2)), nested=False)
  two = dataclasses.replace(individual(2), bits=(2, 4))
  with pytest.raises(ValueError, match='one precision'):
    shared_kernels.SharedNetwork((two,), nested=False)
  network, variables = trained(nested=True)
  with pytest.raises(ValueError, match='this network has'):
    network.apply(variables, IMAGES, precisions=[3])
  with pytest.raises(ValueError, match='cannot be fixed'):
    network.apply_and_update(variables, IMAGES, fixed=1)
