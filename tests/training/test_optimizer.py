from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpoq_jax import config as config_lib
from dpoq_jax.training import optimizer

PARAMS = {
  'path_2': {
    'stem': {'conv': {'latent': jnp.asarray([1.0, -2.0])}},
    'stem_pact': {'clip': jnp.asarray(6.0)},
  }
}
GRADIENTS = {
  'path_2': {
    'stem': {'conv': {'latent': jnp.asarray([0.5, 0.25])}},
    'stem_pact': {'clip': jnp.asarray(-1.0)},
  }
}


def run(config: config_lib.Optimizer, steps: int, learning_rate: float = 0.1):
  """Applies constant gradients; returns latent and clip."""
  transform = optimizer.sgd(config, learning_rate)
  params: Any = PARAMS
  state = transform.init(params)
  for _ in range(steps):
    updates, state = transform.update(GRADIENTS, state, params)
    params = optax.apply_updates(params, updates)
  return params['path_2']['stem']['conv']['latent'], params['path_2']['stem_pact']['clip']


def at(rate: optax.Schedule, steps: Sequence[int]) -> list[float]:
  return [np.asarray(rate(step)).item() for step in steps]


def by_hand(value, gradient, steps, decay, rate=0.1, momentum=0.9):
  velocity = np.zeros_like(value)
  for _ in range(steps):
    velocity = momentum * velocity + gradient + decay * value
    value = value - rate * velocity
  return value


def test_sgd_is_momentum_on_the_decayed_gradient():
  latent, clip = run(config_lib.Optimizer(weight_decay=0.01), steps=3)
  expected = by_hand(np.array([1.0, -2.0]), np.array([0.5, 0.25]), 3, decay=0.01)
  np.testing.assert_allclose(latent, expected, rtol=1e-6)
  np.testing.assert_allclose(clip, by_hand(np.array(6.0), -1.0, 3, decay=0.01), rtol=1e-6)


def test_clips_have_a_rate_and_a_decay_of_their_own():
  config = config_lib.Optimizer(weight_decay=0.01, clip_learning_rate=0.1, clip_weight_decay=0.5)
  latent, clip = run(config, steps=3)
  expected = by_hand(np.array([1.0, -2.0]), np.array([0.5, 0.25]), 3, decay=0.01)
  np.testing.assert_allclose(latent, expected, rtol=1e-6)
  expected = by_hand(np.array(6.0), -1.0, 3, decay=0.5, rate=0.01)
  np.testing.assert_allclose(clip, expected, rtol=1e-6)


def test_latents_have_a_decay_of_their_own():
  latent, clip = run(config_lib.Optimizer(weight_decay=0.01, latent_weight_decay=0.5), steps=3)
  expected = by_hand(np.array([1.0, -2.0]), np.array([0.5, 0.25]), 3, decay=0.5)
  np.testing.assert_allclose(latent, expected, rtol=1e-6)
  np.testing.assert_allclose(clip, by_hand(np.array(6.0), -1.0, 3, decay=0.01), rtol=1e-6)


def former_sgd(config: config_lib.Optimizer, learning_rate: Any) -> optax.GradientTransformation:
  """The optimizer of runs from before latents had settings of their own."""

  def is_clip(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == 'clip', params)

  def is_not_clip(params: Any) -> Any:
    return jax.tree.map(lambda found: not found, is_clip(params))

  return optax.chain(
    optax.add_decayed_weights(config.weight_decay, mask=is_not_clip),
    optax.add_decayed_weights(config.weight_decay, mask=is_clip),
    optax.trace(config.momentum),
    optax.masked(optax.scale(config.clip_learning_rate), is_clip),
    optax.scale_by_learning_rate(learning_rate),
  )


def test_earlier_checkpoints_are_of_the_same_structure():
  config = config_lib.Optimizer(clip_learning_rate=0.1)
  schedule = optimizer.learning_rate_schedule(config, epochs=2, steps_per_epoch=3)
  former, ours = former_sgd(config, schedule), optimizer.sgd(config, schedule)
  params: Any = PARAMS
  states = former.init(params), ours.init(params)
  assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
  # And goes on as it did.
  results = [
    t.update(GRADIENTS, state, params) for t, state in zip((former, ours), states, strict=True)
  ]
  chex.assert_trees_all_equal(*results)


def test_steps_schedule_drops_after_the_epochs_of_the_paper():
  config = config_lib.Optimizer(schedule='steps', decay_epochs=(100.0, 150.0, 180.0))
  rate = optimizer.learning_rate_schedule(config, epochs=200, steps_per_epoch=390)
  steps = [0, 100 * 390 - 1, 100 * 390, 150 * 390, 180 * 390, 200 * 390 - 1]
  # 0.1, divided by 10 at the first step of epochs 100, 150 and 180 (counted from 0).
  expected = [0.1, 0.1, 0.01, 0.001, 0.0001, 0.0001]
  np.testing.assert_allclose(at(rate, steps), expected, rtol=1e-5)


def test_two_drops_at_one_step_are_two():
  config = config_lib.Optimizer(schedule='steps', decay_epochs=(0.8, 1.2))
  rate = optimizer.learning_rate_schedule(config, epochs=3, steps_per_epoch=1)
  np.testing.assert_allclose(at(rate, [0, 1, 2]), [0.1, 0.001, 0.001], rtol=1e-5)


def test_warm_up_moves_no_drop_and_no_step_has_a_rate_of_0():
  config = config_lib.Optimizer(schedule='steps', decay_epochs=(10.0,), warmup_epochs=5.0)
  rate = optimizer.learning_rate_schedule(config, epochs=20, steps_per_epoch=10)
  np.testing.assert_allclose(
    at(rate, (0, 24, 49, 50, 99, 100)), [0.002, 0.05, 0.1, 0.1, 0.1, 0.01], rtol=1e-5
  )


def test_cosine_ends_at_zero():
  config = config_lib.Optimizer(schedule='cosine', warmup_epochs=1.0)
  rate = optimizer.learning_rate_schedule(config, epochs=11, steps_per_epoch=10)
  # Half-way between the end of the warm-up (step 10) and the end of the run (110).
  np.testing.assert_allclose(at(rate, (10, 60, 110)), [0.1, 0.05, 0.0], rtol=1e-5, atol=1e-8)
