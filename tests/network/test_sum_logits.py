"""Paths that add the logits of the path below, and powers of the bit ratio: eq. 6 with levers."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpoq_jax.core.names import path_name
from dpoq_jax.core.spec import LayerOptions
from dpoq_jax.network.gradient_scale import scale_of_mode, whole_gradient
from dpoq_jax.network.onion_network import Onion
from dpoq_jax.training import objective
from tests.fast import jit
from tests.tiny_model import TinyNet

BITS = (2, 4, 8)
CLASSES = 5
SCALES = (0.5, -1.5)
IMAGES = jnp.asarray(np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8))
LABELS = jnp.asarray(np.random.default_rng(1).integers(0, CLASSES, 6), jnp.int32)


def build(sum_logits: bool, dtype: Any = jnp.float32) -> tuple[Onion, Any]:
  options = LayerOptions(shift_init=0.3, compute_dtype=dtype)
  model = TinyNet(num_classes=CLASSES, width=2)
  network = Onion(model, BITS, options=options, sum_logits=sum_logits)
  variables = jit(network.init)(jax.random.key(0), IMAGES)
  if sum_logits:
    for precision, scale in zip(BITS[1:], SCALES, strict=True):
      # 0 at the start: each path begins as without it.
      assert variables['params'][path_name(precision)]['logit_scale'] == 0
      variables['params'][path_name(precision)]['logit_scale'] = jnp.asarray(scale, dtype)
  return network, variables


@pytest.mark.parametrize('train', [False, True])
def test_each_path_adds_the_sum_below_it(train: bool):
  plain, _ = build(sum_logits=False)
  network, variables = build(sum_logits=True)
  assert 'logit_scale' not in variables['params']['path_2']
  own = np.asarray(jit(functools.partial(plain.apply, train=train))(variables, IMAGES))
  logits = np.asarray(jit(functools.partial(network.apply, train=train))(variables, IMAGES))
  np.testing.assert_allclose(logits[0], own[0], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(logits[1], own[1] + SCALES[0] * own[0], rtol=1e-5, atol=1e-5)
  below = own[1] + SCALES[0] * own[0]
  np.testing.assert_allclose(logits[2], own[2] + SCALES[1] * below, rtol=1e-5, atol=1e-5)


def test_cut_frozen_and_run_path_by_path_it_is_the_same():
  network, variables = build(sum_logits=True)
  frozen = network.freeze(variables)
  logits = network.apply(variables, IMAGES)
  np.testing.assert_array_equal(network.apply(frozen, IMAGES), logits)
  for count, precision in enumerate(BITS, start=1):
    smaller, cut = network.cut(frozen, precision)
    assert smaller.sum_logits
    np.testing.assert_array_equal(smaller.apply(cut, IMAGES), logits[:count])
  # As a cascade does: laterals are kept for some of the inputs alone.
  laterals: dict[str, Any] = {}
  kept = np.asarray([4, 1])
  images, expected = IMAGES, logits
  for index in range(len(BITS)):
    output = network.run_path(frozen, index, images, laterals)
    np.testing.assert_allclose(output.logits, expected[index], rtol=1e-5, atol=1e-5)
    laterals |= output.laterals
    if index == 0:
      images, expected = images[kept], expected[:, kept]
      laterals = jax.tree.map(lambda leaf: leaf[kept], laterals)
  sizes = network.stored_bytes(frozen)
  plain, latents = build(sum_logits=False)
  without = plain.stored_bytes(plain.freeze(latents))
  assert {b: sizes[b] - without[b] for b in BITS} == {2: 0, 4: 4, 8: 8}


@pytest.mark.parametrize('sum_logits', [False, True])
def test_the_exponent_is_that_of_lambda_in_equation_6(sum_logits: bool):
  with jax.enable_x64(True):
    network, variables = build(sum_logits, jnp.float64)
    params = variables.pop('params')

    def losses(params: Any, scale: Any) -> jax.Array:
      logits, _ = network.apply_and_update(
        {'params': params, **variables}, IMAGES, gradient_scale=scale
      )
      return objective.cross_entropy(logits, LABELS)

    # Every dL_k/dtheta_j apart.
    rows = jit(jax.jacrev(lambda params: losses(params, whole_gradient)))(params)
    for exponent in (0.5, 2.0):
      scale = scale_of_mode('scaled', exponent)
      found = jit(jax.grad(lambda p, s=scale: jnp.sum(losses(p, s))))(params)
      for j, lower in enumerate(BITS):
        factors = [0.0] * j + [(lower / higher) ** exponent for higher in BITS[j:]]
        weights = np.asarray(factors)
        expected = jax.tree.map(
          lambda leaf, w=weights: np.tensordot(w, leaf, 1), rows[path_name(lower)]
        )
        chex.assert_trees_all_close(found[path_name(lower)], expected, rtol=1e-9, atol=1e-12)
    # A path's classifier serves higher precisions by its logits alone.
    assert np.all((rows['path_2']['head']['bias'][1:] != 0) == sum_logits)
    # The test would show nothing if no loss reached the paths below.
    for k in (1, 2):
      assert np.any(rows['path_2']['stem']['conv']['latent'][k] != 0)
    assert scale_of_mode('scaled')(2, 8) == 0.25
    assert scale_of_mode('scaled', 2.0)(2, 8) == 1 / 16
    assert scale_of_mode('joint', 2.0)(2, 8) == 1
    assert scale_of_mode('separate', 2.0)(2, 8) == 0
