"""The joint loss: who teaches whom, what companions add, and what a step makes of both."""

import dataclasses
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpoq_jax import config as config_lib
from dpoq_jax.core.spec import LayerOptions
from dpoq_jax.network.companions import Companions
from dpoq_jax.network.onion_network import Onion
from dpoq_jax.training import objective
from dpoq_jax.training.train_step import create_state, make_train_step
from tests.fast import jit
from tests.tiny_model import TinyNet

CLASSES = 3
RNG = np.random.default_rng(0)
BATCH = {
  'image': jnp.asarray(RNG.integers(0, 256, (8, 8, 8, 1), dtype=np.uint8)),
  'label': jnp.asarray(RNG.integers(0, CLASSES, 8), jnp.int32),
}
# Shifts that are not zero, so that gradients cross.
ONION = Onion(TinyNet(num_classes=CLASSES, width=2), (2, 4), options=LayerOptions(shift_init=0.3))
BOTH_RINGS = Companions(ONION, (8,), rings=2)


def config_of(seed: int = 0, **fields: Any) -> config_lib.Config:
  return config_lib.Config(
    seed=seed,
    data=config_lib.Data(pad=0),
    quantization=config_lib.Quantization(bits=(2, 4)),
    objective=config_lib.Objective(companion_bits=(8,), companion_rings=2, **fields),
  )


@functools.lru_cache
def start(network: Any) -> Any:
  create = functools.partial(create_state, network, optax.sgd(1.0))
  return jit(create)(jax.random.key(0), BATCH['image'])


def stepping(network: Any, config: config_lib.Config, **options: Any) -> Any:
  """Plain descent from a fresh state of a given step, so that updates are the gradients.

  Images are not augmented, so that only the objective depends on the step's number.
  """
  step = jit(make_train_step(network, optax.sgd(1.0), config, **options))

  def at(number: int, params: Any = None, batch: Any = BATCH) -> tuple[Any, jax.Array]:
    state = dataclasses.replace(start(network), step=jnp.int32(number))
    return step(dataclasses.replace(state, params=params or state.params), batch)

  return at


def gain(state: Any, name: str) -> jax.Array:
  """The factors of a normalisation, which every gradient moves."""
  return state.params[name]['conv']['norm']['scale']


def test_joint_loss_weighs_rows():
  losses = jnp.asarray([1.0, 2.0, 4.0])
  chex.assert_trees_all_close(objective.joint_loss(losses), 7.0)
  chex.assert_trees_all_close(objective.joint_loss(losses, (1.0, 0.5, 0.25)), 3.0)
  with pytest.raises(ValueError, match='2 loss weights given for 3 losses'):
    objective.joint_loss(losses, (1.0, 1.0))


def test_cross_entropy_with_label_smoothing():
  logits = jnp.log(jnp.asarray([[[0.7, 0.2, 0.1]], [[0.1, 0.1, 0.8]]]))
  labels = jnp.asarray([0])
  np.testing.assert_allclose(
    objective.cross_entropy(logits, labels), [-np.log(0.7), -np.log(0.1)], rtol=1e-5
  )
  # Target 0.3 / 3 on every class and 0.7 more on the right one.
  expected = -0.8 * np.log(0.7) - 0.1 * np.log(0.2) - 0.1 * np.log(0.1)
  smoothed = objective.cross_entropy(logits, labels, 0.3)
  np.testing.assert_allclose(smoothed[0], expected, rtol=1e-5)


def test_a_taught_row_learns_from_labels_and_teacher_by_share():
  p = np.asarray([[[0.7, 0.2, 0.1]], [[0.1, 0.1, 0.8]], [[0.3, 0.5, 0.2]]])
  logits, labels = jnp.log(jnp.asarray(p, jnp.float32)), jnp.asarray([0])
  found = objective.cross_entropy(logits, labels, 0.3, (2, None, None), jnp.float32(0.25))
  target = 0.75 * np.asarray([0.8, 0.1, 0.1]) + 0.25 * p[2, 0]
  np.testing.assert_allclose(found[0], -np.sum(target * np.log(p[0, 0])), rtol=1e-5)
  np.testing.assert_array_equal(
    found[1:], objective.cross_entropy(logits, labels, 0.3, (), 0.25)[1:]
  )


def test_no_gradient_reaches_a_teacher_through_what_it_teaches():
  logits = jnp.asarray(RNG.normal(size=(3, 8, CLASSES)), jnp.float32)

  def losses(logits: jax.Array) -> jax.Array:
    return objective.cross_entropy(logits, BATCH['label'], 0.1, (2, 2, None), 1.0)

  jacobian = jax.jacrev(losses)(logits)
  for taught in (0, 1):
    np.testing.assert_array_equal(jacobian[taught, 2], 0)
    # Of the softmax cross-entropy: what it predicts less the target, the teacher's softmax.
    expected = (jax.nn.softmax(logits[taught]) - jax.nn.softmax(logits[2])) / 8
    np.testing.assert_allclose(jacobian[taught, taught], expected, atol=1e-6)
  assert np.all(jacobian[2, 2] != 0)


def test_who_teaches_whom():
  # Two companions of each of the two lowest rings of three.
  companions = (0, 0, 1, 1)

  def teachers(given: tuple[int, ...], **fields: Any) -> list[int | None]:
    return objective.teachers(config_of(**fields).objective, 3, given)

  assert teachers(companions) == []
  assert teachers(companions, distillation=0.5) == [2, 2] + 5 * [None]
  assert teachers((), distillation=0.5) == [2, 2, None]
  # Of several the widest, which comes last; companions themselves are taught by none.
  own = {'distillation': 0.5, 'teacher': 'companion'}
  assert teachers(companions, **own) == [4, 6] + 5 * [None]
  # Those of ring 1 are not run if its path is fixed.
  assert teachers((1, 1), **own) == [None, 4, None, None, None]
  assert teachers((), **own) == [None, None, None]


@pytest.mark.parametrize(
  ('teacher', 'taught', 'teaching'),
  [
    ('highest', ['path_2'], ['path_4']),
    ('companion', ['path_2', 'path_4'], ['companion_2_8', 'companion_4_8']),
  ],
)
def test_teaching_starts_at_its_epoch_and_moves_the_taught_alone(teacher, taught, teaching):
  config = config_of(distillation=1.0, teacher=teacher, teacher_start=1.5)
  at = stepping(BOTH_RINGS, config, steps_per_epoch=4)
  (before, _), (last, losses_before), (first, losses) = at(0), at(5), at(6)
  chex.assert_trees_all_equal(before.params, last.params)
  for name in teaching:
    # No gradient comes from what is taught.
    chex.assert_trees_all_equal(first.params[name], last.params[name])
    assert np.any(gain(first, name) != gain(start(BOTH_RINGS), name))
  for name in taught:
    assert np.any(gain(first, name) != gain(last, name))
  assert [f'path_{b}' in taught for b in (2, 4)] == list(np.asarray(losses != losses_before))
  # Before that, it is a run without a teacher.
  without = stepping(BOTH_RINGS, config_of())
  chex.assert_trees_all_close(without(5)[0].params, last.params, rtol=1e-5, atol=1e-6)


def test_companions_add_their_weighted_losses_to_equation_5():
  config = config_of(loss_weights=(1.0, 2.0), companion_weight=0.25, label_smoothing=0.1)
  state = start(BOTH_RINGS)

  def loss(params: Any) -> jax.Array:
    logits, _ = BOTH_RINGS.apply_and_update(
      {**state.variables, 'params': params},
      BATCH['image'],
      gradient_scale=lambda lower, higher: lower / higher,
    )
    target = 0.9 * jax.nn.one_hot(BATCH['label'], CLASSES) + 0.1 / CLASSES
    rows = -jnp.mean(jnp.sum(target[None] * jax.nn.log_softmax(logits), -1), -1)
    return rows[0] + 2 * rows[1] + 0.25 * jnp.sum(rows[2:])

  after, losses = stepping(BOTH_RINGS, config)(0)
  found = jax.tree.map(lambda old, new: old - new, state.params, after.params)
  chex.assert_trees_all_close(found, jit(jax.grad(loss))(state.params), rtol=1e-4, atol=1e-6)
  # Rows of metrics are of precisions.
  assert losses.shape == after.metrics.loss.shape == after.metrics.correct.shape == (2,)


def test_draws_are_all_companions_in_expectation_and_follow_from_the_step():
  expected, _ = stepping(BOTH_RINGS, config_of(companion_weight=0.5))(0)
  network = dataclasses.replace(BOTH_RINGS, draw=True)
  draws = functools.partial(config_of, companion_weight=0.5, draw_companion=True)
  at = stepping(network, draws())
  found: dict[str, Any] = {}
  names = []
  for number in range(20):
    after, _ = at(number)
    trained = [
      name
      for name in ('companion_2_8', 'companion_4_8')
      if np.any(gain(after, name) != gain(start(network), name))
    ]
    assert len(trained) == 1
    # What is drawn is all that differs from step to step.
    chex.assert_trees_all_equal(found.setdefault(trained[0], after.params), after.params)
    names += trained
  # Each about as often, and together what all are at once.
  assert 4 < names.count('companion_2_8') < 16
  mean = jax.tree.map(lambda *leaves: sum(leaves) / 2, *found.values())
  chex.assert_trees_all_close(mean, expected.params, rtol=1e-5, atol=1e-5)
  # The seed and the step decide, and nothing that came before.
  again, other = stepping(network, draws(), groups=2), stepping(network, draws(seed=1))
  twice = {name: jnp.concatenate([leaf, leaf]) for name, leaf in BATCH.items()}
  for number in (19, 3):
    # The same images twice, normalised apart: the groups share the draw.
    after, _ = again(number, batch=twice)
    chex.assert_trees_all_close(after.params, found[names[number]], rtol=1e-4, atol=1e-5)
  moved = [bool(np.any(gain(other(n)[0], names[n]) != gain(at(n)[0], names[n]))) for n in range(10)]
  assert 0 < sum(moved) < 10
  # A step that is not finite for a companion alone is skipped, too.
  for name in ('companion_2_8', 'companion_4_8'):
    poisoned = jax.tree.map(jnp.array, start(network).params)
    poisoned[name]['conv']['norm']['scale'] *= jnp.nan
    for number in (names.index('companion_2_8'), names.index('companion_4_8')):
      assert int(at(number, poisoned)[0].skipped) == (names[number] == name)


def test_the_lowest_paths_are_fixed_and_their_companions_not_trained():
  config = config_of(distillation=1.0, teacher='companion')
  after, losses = stepping(BOTH_RINGS, config, fixed=1)(0)
  state = start(BOTH_RINGS)
  for name in ('path_2', 'companion_2_8'):
    chex.assert_trees_all_equal(after.params[name], state.params[name])
  chex.assert_trees_all_equal(after.collections['psbn_2'], state.collections['psbn_2'])
  for name in ('path_4', 'companion_4_8'):
    assert np.any(gain(after, name) != gain(state, name))
  assert np.all(np.isfinite(losses))
