"""Companions against plain networks that are built here, one for each."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpoq_jax import config as config_lib
from dpoq_jax.core import quantizers
from dpoq_jax.core.names import path_name
from dpoq_jax.core.spec import LayerOptions, Merge, PathSpec
from dpoq_jax.network import from_config
from dpoq_jax.network.companions import Companions
from dpoq_jax.network.gradient_scale import bit_ratio, no_gradient, whole_gradient
from dpoq_jax.network.onion_network import Onion
from dpoq_jax.training import objective
from tests.fast import jit
from tests.tiny_model import TinyNet

BITS = (2, 4, 8)
CLASSES = 5
IMAGES = jnp.asarray(np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8))
LABELS = jnp.asarray(np.random.default_rng(1).integers(0, CLASSES, 6), jnp.int32)
# Shifts that are not zero, so that laterals are read and gradients cross.
OPTIONS = LayerOptions(shift_init=0.3, weight_quantizer=quantizers.standardised_per_channel)


def onion(bits: tuple[int, ...] = BITS, **changes: Any) -> Onion:
  return Onion(TinyNet(num_classes=CLASSES, width=2), bits, **{'options': OPTIONS, **changes})


def build(widths=(4, 8), rings=2, **changes: Any) -> Companions:
  return Companions(onion(**changes), widths, rings)


def distinct(params: Any) -> Any:
  """No parameter equal to another of its kind: own norms and clips are told from the path's."""
  generator = np.random.default_rng(2)

  def scale(path: Any, leaf: jax.Array) -> jax.Array:
    if leaf.ndim > 1:
      return leaf
    name = path[-1].key
    start = leaf + 0.5 if name in ('bias', 'logit_scale') else leaf
    return start * jnp.asarray(generator.uniform(0.6, 1.4, leaf.shape), leaf.dtype)

  return jax.tree_util.tree_map_with_path(scale, params)


@functools.lru_cache
def trained(**changes: Any) -> tuple[Companions, Any]:
  network = build(**changes)
  variables = network.init(jax.random.key(0), IMAGES)
  return network, {**variables, 'params': distinct(variables['params'])}


@functools.lru_cache
def gradients(scale: Any = whole_gradient) -> list[Any]:
  """The gradient of each row's loss in the parameters, one after another."""
  network, variables = trained()
  params, collections = split(variables)

  def losses(params: Any) -> jax.Array:
    logits, _ = network.apply_and_update(
      {'params': params, **collections}, IMAGES, gradient_scale=scale
    )
    return objective.cross_entropy(logits, LABELS)

  rows = jit(jax.jacrev(losses))
  found = rows(params)
  return [jax.tree.map(lambda leaf, k=k: np.asarray(leaf[k]), found) for k in range(7)]


def split(variables: Any) -> tuple[Any, Any]:
  return variables['params'], {k: v for k, v in variables.items() if k != 'params'}


def plain_logits(
  network: Companions, variables: Any, index: int, width: int, laterals: Any
) -> jax.Array:
  """The logits of an ordinary path of rings `width` wide, put together by hand.

  The latents and the classifier are the path's, the norms and clips the companion's.
  """
  bits = network.bits
  path, own = (variables['params'][f'{kind}'] for kind in names(bits[index], width))
  params = {
    'stem': {'conv': path['stem']['conv'], 'norm': own['stem']['norm']},
    'stem_pact': own['stem_pact'],
    'conv': {'conv': path['conv']['conv'], 'norm': own['conv']['norm']},
    'pact': own['pact'],
    'head': path['head'],
  }
  # The bit list whose ring at this place is so wide: its spec is an ordinary one. Only the names
  # of what it receives follow from the bits, which are those of the lower paths.
  lower = bits[:index]
  wide = (*lower, (lower[-1] if lower else 0) + width)
  spec = PathSpec(wide, index, network.network.activation_widths[index], network.network.options)
  module = TinyNet(spec, num_classes=CLASSES, width=2)
  received = {f'lateral_{b}': laterals[f'lateral_{b}'] for b in lower}
  statistics = {f'psbn_{wide[-1]}': variables[f'psbn_{bits[index]}']}
  logits, _ = module.apply({'params': params, **statistics, **received}, IMAGES, True, mutable=[])
  return logits


def names(precision: int, width: int) -> tuple[str, str]:
  return f'path_{precision}', f'companion_{precision}_{width}'


def test_a_companion_has_norms_and_clips_that_start_as_the_path_s():
  network = build()
  params = network.init(jax.random.key(0), IMAGES)['params']
  assert set(params) == {
    *map(path_name, BITS), 'companion_2_4', 'companion_2_8', 'companion_4_4', 'companion_4_8'
  }  # fmt: skip
  assert jax.tree.structure(params['companion_4_8']) == jax.tree.structure(
    {
      'conv': {'norm': {'bias': 0, 'scale': 0, 'shift_from_2': 0}},
      'pact': {'clip': 0},
      'stem': {'norm': {'bias': 0, 'scale': 0, 'shift_from_2': 0}},
      'stem_pact': {'clip': 0},
    }
  )
  chex.assert_trees_all_equal(
    params['companion_4_8']['conv']['norm'], params['path_4']['conv']['norm']
  )
  # The paths start as they do without companions.
  alone = onion().init(jax.random.key(0), IMAGES)['params']
  chex.assert_trees_all_equal({name: params[name] for name in alone}, alone)


@pytest.mark.parametrize('merge', Merge)
def test_logits_are_those_of_an_ordinary_network_of_that_width(merge: Merge):
  changes: Any = {
    'options': LayerOptions(shift_init=0.3, merge=merge),
    'activation_bits': (8, 4, 8),
  }
  network, variables = trained(**changes)
  logits, _ = network.apply_and_update(variables, IMAGES)
  chex.assert_shape(logits, (len(BITS) + 4, len(IMAGES), CLASSES))
  laterals: dict[str, Any] = {}
  for index in range(2):
    for width in network.widths:
      row = len(BITS) + network.pairs.index((index, width))
      expected = plain_logits(network, variables, index, width, laterals)
      np.testing.assert_array_equal(logits[row], expected)
    laterals |= network.run_path(variables, index, IMAGES, laterals, train=True).laterals


def test_32_bits_are_the_latents_themselves():
  network, variables = trained(widths=(16, 32), rings=1)
  logits, _ = network.apply_and_update(variables, IMAGES)
  # Its activations are those of the path, not of a float network.
  np.testing.assert_array_equal(logits[4], plain_logits(network, variables, 0, 32, {}))
  assert np.any(logits[3] != logits[4])


def test_paths_and_statistics_do_not_know_their_companions():
  network, variables = trained()
  logits, statistics = network.apply_and_update(variables, IMAGES)
  alone = {**variables, 'params': {k: variables['params'][k] for k in map(path_name, BITS)}}
  expected, updated = network.network.apply_and_update(alone, IMAGES)
  np.testing.assert_array_equal(logits[: len(BITS)], expected)
  chex.assert_trees_all_equal(statistics, updated)
  # Nothing is handed up: what companions have for themselves moves their own row alone.
  for row, (index, width) in enumerate(network.pairs, start=len(BITS)):
    name = names(BITS[index], width)[1]
    changed = jax.tree.map(lambda leaf: 1.5 * leaf, variables['params'][name])
    other = {**variables, 'params': {**variables['params'], name: changed}}
    moved, _ = network.apply_and_update(other, IMAGES)
    assert [k for k in range(7) if np.any(moved[k] != logits[k])] == [row]


def test_in_evaluation_there_are_no_companions():
  network, variables = trained()
  logits, _ = network.apply_and_update(variables, IMAGES, (2, 8), train=False)
  np.testing.assert_array_equal(logits, network.network.apply(variables, IMAGES, False, (2, 8)))
  with pytest.raises(ValueError, match=r'trained beside all of \(2, 4, 8\)'):
    network.apply_and_update(variables, IMAGES, (2, 8))


def test_frozen_variables_are_those_of_the_onion_alone():
  network, variables = trained()
  alone = onion()
  expected = alone.freeze(alone.init(jax.random.key(0), IMAGES))
  frozen = network.freeze(variables)
  assert jax.tree.structure(frozen) == jax.tree.structure(expected)
  assert network.stored_bytes(frozen) == alone.stored_bytes(expected)
  smaller, cut = network.network.cut(frozen, 4)
  np.testing.assert_array_equal(
    smaller.apply(cut, IMAGES), network.network.apply(frozen, IMAGES)[:2]
  )


def test_gradients_of_a_companion_s_loss_equal_the_hand_written_ones():
  network, variables = trained()
  params, collections = split(variables)
  for row, (index, width) in enumerate(network.pairs, start=len(BITS)):

    def loss(params: Any, index: int = index, width: int = width) -> jax.Array:
      given, laterals = {'params': params, **collections}, {}
      for lower in range(index):
        laterals |= network.run_path(given, lower, IMAGES, laterals, train=True).laterals
      logits = plain_logits(network, given, index, width, laterals)
      return objective.cross_entropy(logits[None], LABELS)[0]

    expected = jit(jax.grad(loss))
    chex.assert_trees_all_close(gradients()[row], expected(params), rtol=1e-4, atol=1e-6)
    for name, tree in gradients()[row].items():
      reached = name in (*map(path_name, BITS[: index + 1]), names(BITS[index], width)[1])
      assert any(np.any(leaf) for leaf in jax.tree.leaves(tree)) == reached, name


def test_what_a_companion_received_is_scaled_as_for_its_path():
  whole, scaled = gradients(), gradients(bit_ratio)
  # Companions of ring 2, of 4 bits, send half of it down to the path of 2 bits.
  for row in (5, 6):
    half = jax.tree.map(lambda leaf: leaf / 2, whole[row]['path_2'])
    chex.assert_trees_all_close(scaled[row]['path_2'], half, rtol=1e-4, atol=1e-7)
    chex.assert_trees_all_close(scaled[row]['path_4'], whole[row]['path_4'], rtol=1e-4, atol=1e-7)


def test_without_gradients_from_above_the_lowest_ring_is_trained_as_a_network_of_its_own():
  """Which is what results of `mode=separate` are explained by."""
  _, variables = trained()
  alone = Companions(onion((2,)), (4, 8), 1)
  mine = [name for name in variables['params'] if '_2' in name]
  assert sorted(mine) == ['companion_2_4', 'companion_2_8', 'path_2']
  own = {name: variables['params'][name] for name in mine}
  statistics = {'psbn_2': variables['psbn_2']}

  def loss(params: Any) -> jax.Array:
    logits, _ = alone.apply_and_update({'params': params, **statistics}, IMAGES)
    return objective.cross_entropy(logits, LABELS).sum()

  within = jax.tree.map(lambda *rows: sum(rows), *gradients(no_gradient))
  chex.assert_trees_all_close(
    {name: within[name] for name in mine}, jax.grad(loss)(own), rtol=1e-5, atol=1e-7
  )


@pytest.mark.parametrize('fixed', [1, 2, 3])
def test_fixed_paths_have_no_companions(fixed: int):
  network, variables = trained()
  logits, _ = network.apply_and_update(variables, IMAGES, fixed=fixed)
  expected, _ = network.network.apply_and_update(variables, IMAGES, fixed=fixed)
  np.testing.assert_array_equal(logits[:3], expected)
  remaining = [pair for pair in network.pairs if pair[0] >= fixed]
  assert len(logits) == 3 + len(remaining)
  laterals: dict[str, Any] = {}
  for index in range(fixed):
    laterals |= network.run_path(variables, index, IMAGES, laterals).laterals
  for row, (index, width) in zip(logits[3:], remaining, strict=True):
    np.testing.assert_array_equal(row, plain_logits(network, variables, index, width, laterals))


def test_the_logits_below_are_added_as_the_path_adds_them():
  network, variables = trained(sum_logits=True)
  logits, _ = network.apply_and_update(variables, IMAGES)
  laterals = network.run_path(variables, 0, IMAGES, train=True).laterals
  scale = variables['params']['path_4']['logit_scale']
  assert scale > 0
  for row, width in ((5, 4), (6, 8)):
    own = plain_logits(network, variables, 1, width, laterals)
    np.testing.assert_array_equal(logits[row], own + scale * logits[0])
  # The lowest path adds nothing, nor do its companions.
  np.testing.assert_array_equal(logits[3], plain_logits(network, variables, 0, 4, {}))


def test_draws_are_of_one_companion_by_the_key_alone():
  network, variables = trained()
  every, _ = network.apply_and_update(variables, IMAGES)
  drawing = Companions(network.network, network.widths, network.rings, draw=True)

  @jax.jit
  def draw(key: jax.Array) -> jax.Array:
    logits, statistics = drawing.apply_and_update(variables, IMAGES, key=key)
    del statistics
    return logits

  drawn = []
  for seed in range(24):
    logits = draw(jax.random.key(seed))
    assert len(logits) == len(BITS) + 1
    distances = [float(jnp.max(jnp.abs(logits[-1] - row))) for row in every[3:]]
    drawn.append(int(np.argmin(distances)))
    assert min(distances) < 1e-3 * max(distances)
  # Each of the four, about as often.
  assert min(np.bincount(drawn, minlength=4)) >= 2
  np.testing.assert_array_equal(draw(jax.random.key(3)), draw(jax.random.key(3)))
  with pytest.raises(ValueError, match='drawn with a key'):
    drawing.apply_and_update(variables, IMAGES)
  # Nothing is left to draw from, and no key needed.
  logits, _ = drawing.apply_and_update(variables, IMAGES, fixed=2)
  assert len(logits) == len(BITS)


def test_impossible_companions_are_refused():
  for rings in (0, 4):
    with pytest.raises(ValueError, match=f'companion_rings={rings}: the onion has 3 rings'):
      build(rings=rings)
  with pytest.raises(ValueError, match='companion_bits=17: give 1 to 16 bits, or 32 for float'):
    build(widths=(8, 17))
  narrow = LayerOptions(compute_dtype=jnp.bfloat16)
  with pytest.raises(ValueError, match='companion_bits=12: bfloat16 holds integers of up to 8'):
    build(widths=(8, 12), options=narrow)
  build(widths=(8, 32), options=narrow)
  merged = LayerOptions(merge=Merge.VANILLA)
  with pytest.raises(ValueError, match='companion_bits=32: the vanilla merge makes one integer of'):
    build(widths=(8, 32), options=merged)
  build(widths=(8, 32), rings=1, options=merged)


def test_a_config_builds_what_it_says():
  config = config_lib.Config(
    quantization=config_lib.Quantization(bits=BITS),
    objective=config_lib.Objective(companion_bits=(8,), companion_rings=2, draw_companion=True),
  )
  network = from_config.build_trainable(config, CLASSES)
  alone: Any = from_config.build(config, CLASSES)
  assert network == Companions(alone, (8,), 2, draw=True)
  without = config.model_copy(update={'objective': config_lib.Objective()})
  assert from_config.build_trainable(without, CLASSES) == from_config.build(without, CLASSES)
