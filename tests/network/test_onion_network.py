import functools
from typing import Any, get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpoq_jax import config, models
from dpoq_jax.core.names import path_name
from dpoq_jax.core.spec import Laterals, LayerOptions, Merge, PathSpec
from dpoq_jax.network import onion_network
from dpoq_jax.network.gradient_scale import scale_of_mode, whole_gradient
from dpoq_jax.training import objective
from tests.fast import jit
from tests.tiny_model import TinyNet

BITS = (2, 4, 8)
CLASSES = 5
IMAGES = jnp.asarray(np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8))
LABELS = jnp.asarray(np.random.default_rng(1).integers(0, CLASSES, 8), jnp.int32)


# What holds for one model holds for another, which takes ten times as long to compile.
MODELS: dict[str, Any] = {
  'tiny': TinyNet(num_classes=CLASSES),
  'resnet': models.CifarResNet(num_classes=CLASSES, depth=8, width=4),
}
each_model = pytest.mark.parametrize(
  'model', ['tiny', pytest.param('resnet', marks=pytest.mark.nightly)]
)
# All ways in which paths meet.
each_meeting = pytest.mark.parametrize(
  'meeting',
  [{'merge': merge, 'laterals': laterals} for merge in Merge for laterals in Laterals],
  ids=lambda meeting: '-'.join(each.value for each in meeting.values()),
)


def build(
  bits=BITS, dtype: Any = jnp.float32, model: str = 'tiny', **meeting: Any
) -> onion_network.Onion:
  # Shifts that are not zero, so that gradients cross between paths and logits depend on laterals.
  options = LayerOptions(shift_init=0.3, compute_dtype=dtype, **meeting)
  return onion_network.Onion(MODELS[model], bits=bits, options=options)


@functools.lru_cache
def trained(model: str = 'tiny', **meeting: Any) -> tuple[onion_network.Onion, Any]:
  """A network whose running statistics have seen a batch."""
  network = build(model=model, **meeting)
  variables = network.init(jax.random.key(0), IMAGES)
  update = jit(lambda v: network.apply_and_update(v, IMAGES)[1])
  return network, {**variables, **update(variables)}


def test_variables_are_laid_out_as_promised():
  network, variables = trained()
  assert set(variables) == {'params', 'psbn_2', 'psbn_4', 'psbn_8'}
  assert set(variables['params']) == {'path_2', 'path_4', 'path_8'}
  norm = variables['params']['path_8']['stem']['norm']
  assert set(norm) == {'scale', 'bias', 'shift_from_2', 'shift_from_4'}
  assert set(variables['psbn_4']['stem']['norm']) == {'mean', 'var'}
  frozen = network.freeze(variables)
  assert frozen['onion']['stem']['conv']['kernel'].dtype == jnp.uint16
  assert not any(
    'latent' in jax.tree_util.keystr(path)
    for path, _ in jax.tree_util.tree_leaves_with_path(frozen['params'])
  )


@each_model
@each_meeting
@pytest.mark.parametrize(
  ('dtype', 'tolerance'),
  [pytest.param(jnp.float32, 1e-5, marks=pytest.mark.nightly), (jnp.float64, 1e-12)],
)
def test_one_backward_pass_gives_equation_6(model: str, meeting: Any, dtype: Any, tolerance: float):
  with jax.enable_x64(dtype == jnp.float64):
    network = build(dtype=dtype, model=model, **meeting)
    variables = network.init(jax.random.key(0), IMAGES)
    params = variables.pop('params')

    def losses(params, scale):
      variables_ = {'params': params, **variables}
      logits, _ = network.apply_and_update(variables_, IMAGES, gradient_scale=scale)
      return objective.cross_entropy(logits, LABELS)

    # Every dL_k/dtheta_j apart.
    together = jit(jax.jacrev(lambda p: losses(p, whole_gradient)))(params)
    rows = [jax.tree.map(lambda leaf, k=k: leaf[k], together) for k in range(len(BITS))]
    for mode in get_args(config.GradientMode):
      scale = scale_of_mode(mode)
      one_pass = jit(jax.grad(lambda p, scale=scale: jnp.sum(losses(p, scale))))(params)
      for j, lower in enumerate(BITS):
        factors = [0.0] * j + [1.0] + [scale(lower, higher) for higher in BITS[j + 1 :]]
        path = path_name(lower)
        expected = jax.tree.map(
          lambda *leaves, f=factors: sum(a * leaf for a, leaf in zip(f, leaves, strict=True)),
          *(row[path] for row in rows),
        )
        # Relative to the largest summand: where precisions disagree, their sum cancels.
        summand = jax.tree.map(
          lambda *leaves, f=factors: (
            max(a * float(jnp.max(jnp.abs(leaf))) for a, leaf in zip(f, leaves, strict=True))
            # A clip that nothing reached has no gradient at all.
            or 1.0
          ),
          *(row[path] for row in rows),
        )
        error = jax.tree.map(
          lambda got, want, largest: float(jnp.max(jnp.abs(got - want))) / largest,
          one_pass[path],
          expected,
          summand,
        )
        worst = max(jax.tree.leaves(error))
        assert worst < tolerance, (mode, path, worst)
    # The test would show nothing if no loss reached the paths below.
    for row in rows:
      assert np.any(row['path_2']['stem']['conv']['latent'] != 0)


@each_model
def test_separate_sends_exactly_nothing_down(model: str):
  network, variables = trained(model=model)
  collections = {name: tree for name, tree in variables.items() if name != 'params'}

  def loss(params, k):
    logits, _ = network.apply_and_update(
      {'params': params, **collections},
      IMAGES,
      gradient_scale=scale_of_mode('separate'),
    )
    return objective.cross_entropy(logits, LABELS)[k]

  for k in range(len(BITS)):
    gradients = jit(jax.grad(functools.partial(loss, k=k)))(variables['params'])
    for j, precision in enumerate(BITS):
      largest = max(
        float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(gradients[path_name(precision)])
      )
      assert (largest > 0) == (j == k)


@each_model
@each_meeting
def test_frozen_logits_equal_unfrozen_ones(model: str, meeting: Any):
  network, variables = trained(model, **meeting)
  logits = jax.jit(network.apply)(variables, IMAGES)
  chex.assert_shape(logits, (len(BITS), len(IMAGES), CLASSES))
  frozen = network.freeze(variables)
  chex.assert_trees_all_equal(jax.jit(network.freeze)(variables), frozen)
  chex.assert_trees_all_equal(jax.jit(network.apply)(frozen, IMAGES), logits)


@each_model
@each_meeting
def test_cutting_leaves_lower_logits_as_they_were(model: str, meeting: Any):
  network, variables = trained(model, **meeting)
  frozen = network.freeze(variables)
  logits = jax.jit(network.apply)(frozen, IMAGES)
  for kept in range(1, len(BITS) + 1):
    cut = jax.jit(functools.partial(network.apply, precisions=BITS[:kept]))(frozen, IMAGES)
    chex.assert_trees_all_equal(cut, logits[:kept])
  # One path at a time, laterals handed on by the caller.
  laterals = {}
  for index in range(len(BITS)):
    run = jax.jit(functools.partial(network.run_path, index=index))
    output = run(frozen, images=IMAGES, laterals=laterals)
    laterals |= output.laterals
    if meeting['merge'] is Merge.PSBN:
      chex.assert_trees_all_equal(output.logits, logits[index])
    else:
      # XLA fuses the sum of two paths' convolutions otherwise in one program than in two.
      chex.assert_trees_all_close(output.logits, logits[index], rtol=1e-5)


def test_lower_paths_never_read_higher_ones():
  network, variables = trained()
  changed = dict(variables['params'])
  changed['path_8'] = jax.tree.map(lambda leaf: leaf + 1, changed['path_8'])
  apply = jax.jit(network.apply)
  before = apply(variables, IMAGES)
  after = apply({**variables, 'params': changed}, IMAGES)
  chex.assert_trees_all_equal(after[:2], before[:2])
  assert np.any(after[2] != before[2])


@each_meeting
def test_higher_paths_read_every_lower_one(meeting: Any):
  network, variables = trained(**meeting)
  logits = jax.jit(network.apply)(variables, IMAGES)
  for lower in ('path_2', 'path_4'):
    changed = {**variables['params']}
    changed[lower] = jax.tree.map(lambda leaf: leaf * 1.5, changed[lower])
    after = jax.jit(network.apply)({**variables, 'params': changed}, IMAGES)
    assert np.any(after[2] != logits[2])


def test_statistics_are_written_in_training_by_the_paths_that_ran():
  network, variables = trained()
  _, statistics = network.apply_and_update(variables, IMAGES, (2, 4))
  assert set(statistics) == {'psbn_2', 'psbn_4'}
  assert np.any(
    statistics['psbn_2']['stem']['norm']['mean'] != variables['psbn_2']['stem']['norm']['mean']
  )
  _, statistics = network.apply_and_update(variables, IMAGES, train=False)
  chex.assert_trees_all_equal(statistics, {k: v for k, v in variables.items() if k != 'params'})


def test_any_precisions_of_the_network_can_be_asked_for():
  network, variables = trained()
  logits = network.apply(variables, IMAGES)
  chex.assert_trees_all_equal(network.apply(variables, IMAGES, precisions=(8,)), logits[2:])
  with pytest.raises(ValueError, match=r'precisions=\(3,\): this network has \(2, 4, 8\)'):
    network.apply(variables, IMAGES, precisions=(3,))
  with pytest.raises(ValueError, match='lateral_2'):
    network.run_path(variables, 1, IMAGES)
  with pytest.raises(ValueError, match='frozen already'):
    network.freeze(network.freeze(variables))


def test_paths_may_meet_at_the_ends_of_blocks_alone():
  network, variables = trained('resnet', laterals=Laterals.BLOCK_ENDS)
  handed_up = network.run_path(variables, 0, IMAGES).laterals['lateral_2']
  assert set(handed_up) == {'stage1_block1', 'stage2_block1', 'stage3_block1'}
  assert all(set(block) == {'conv2'} for block in handed_up.values())
  highest = variables['params']['path_8']
  shifts = {'shift_from_2', 'shift_from_4'}
  for layer in (highest['stem'], highest['stage2_block1']['conv1']):
    assert set(layer['norm']) == {'scale', 'bias'}
  assert set(highest['stage2_block1']['conv2']['norm']) == {'scale', 'bias', *shifts}


@pytest.mark.parametrize('bits', [(1,), (32,), (1, 2, 3), (4, 20)])
def test_other_bit_lists_train_freeze_and_run(bits: tuple[int, ...]):
  network = build(bits)
  variables = network.init(jax.random.key(0), IMAGES)
  frozen = network.freeze(variables)
  chex.assert_trees_all_equal(
    jax.jit(network.apply)(frozen, IMAGES), jax.jit(network.apply)(variables, IMAGES)
  )
  expected = {(32,): jnp.float32, (4, 20): jnp.uint32}.get(bits, jnp.uint16)
  assert frozen['onion']['stem']['conv']['kernel'].dtype == expected


def test_paths_have_activations_of_their_own_width():
  options = LayerOptions(shift_init=0.3)
  network = onion_network.Onion(TinyNet(num_classes=CLASSES), BITS, (2, 4, 8), options)
  variables = network.init(jax.random.key(0), IMAGES)
  clips = [variables['params'][path_name(b)]['stem_pact']['clip'] for b in BITS]
  assert clips == [2, 6, 6]
  laterals: dict[str, Any] = {}
  for k, b in enumerate(BITS):
    path = network.model.clone(spec=PathSpec(BITS, k, b, network.options))
    own = {'params': variables['params'][path_name(b)], f'psbn_{b}': variables[f'psbn_{b}']}
    logits, handed_up = path.apply({**own, **laterals}, IMAGES, mutable=[f'lateral_{b}'])
    output = network.run_path(variables, k, IMAGES, laterals)
    np.testing.assert_array_equal(output.logits, logits)
    laterals |= handed_up
  smaller, cut = network.cut(network.freeze(variables), 4)
  assert smaller.activation_bits == (2, 4)
  np.testing.assert_array_equal(
    smaller.apply(cut, IMAGES), network.apply(variables, IMAGES, precisions=(2, 4))
  )


def test_equal_models_make_equal_networks():
  one, other = (onion_network.Onion(models.CifarResNet(depth=8), bits=(2, 4)) for _ in range(2))
  assert one == other
  assert hash(one) == hash(other)


def test_a_model_alone_is_its_float_network():
  model = models.CifarResNet(depth=8, width=4)
  network = onion_network.Onion(model, bits=(32,), activation_bits=32)
  variables = network.init(jax.random.key(0), IMAGES)
  own = {**variables, 'params': variables['params']['path_32']}
  expected = network.apply(variables, IMAGES)[0]
  np.testing.assert_array_equal(model.apply(own, IMAGES), expected)


def test_stored_bytes_grow_by_a_ring_and_a_path():
  network, variables = trained()
  sizes = network.stored_bytes(network.freeze(variables))
  weights = 8 * sum(
    leaf.size
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables['params']['path_2'])
    if 'latent' in jax.tree_util.keystr(path)
  )
  floats = 0
  for precision in BITS:
    own = variables['params'][path_name(precision)], variables[f'psbn_{precision}']
    floats += 4 * sum(
      leaf.size
      for path, leaf in jax.tree_util.tree_leaves_with_path(own)
      if 'latent' not in jax.tree_util.keystr(path)
    )
    assert sizes[precision] == weights // 8 * precision // 8 + floats


@each_model
@each_meeting
def test_cutting_leaves_the_lower_precisions_as_they_were(model: str, meeting: Any):
  network, variables = trained(model, **meeting)
  frozen = network.freeze(variables)
  whole = network.apply(frozen, IMAGES)
  sizes = network.stored_bytes(frozen)
  for count, precision in enumerate(BITS, start=1):
    smaller, cut = network.cut(frozen, precision)
    assert smaller.bits == BITS[:count]
    assert smaller.stored_bytes(cut) == {b: sizes[b] for b in smaller.bits}
    assert set(cut) == {'params', 'onion', *(f'psbn_{b}' for b in smaller.bits)}
    highest = max(int(kernel.max()) for kernel in jax.tree.leaves(cut['onion']))
    assert 2 ** (precision - 1) <= highest < 2**precision
    chex.assert_trees_all_equal(smaller.apply(cut, IMAGES), whole[:count])
  with pytest.raises(ValueError, match='precision 3: this network has'):
    network.cut(frozen, 3)
  with pytest.raises(ValueError, match='freeze them first'):
    network.cut(variables, 2)
