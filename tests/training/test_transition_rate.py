"""The controller of how many codes change in a step, on latents that noise moves."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpoq_jax import config as config_lib
from dpoq_jax.core import quantizers
from dpoq_jax.network import from_config
from dpoq_jax.network.from_config import Ring
from dpoq_jax.training import checkpoint, optimizer, transition_rate

BITS = (2, 6)
TARGET = 0.02


def ring(width: int) -> Ring:
  return Ring(width, lambda latents: quantizers.standardised(latents, width))


RINGS = {'path_2': ring(2), 'path_6': ring(4)}


def latents(size: int = 4000) -> dict[str, Any]:
  rng = np.random.default_rng(0)
  return {
    name: {'conv': {'latent': jnp.asarray(rng.normal(size=size), jnp.float32)}} for name in RINGS
  }


@functools.lru_cache
def shares(first_rate: float, target: float, steps: int = 250) -> dict[str, np.ndarray]:
  """The share of each ring's codes that changed, by step, if gradients are noise."""
  transform = transition_rate.scale_by_transition_rate(
    lambda step: jnp.asarray(target), RINGS, first_rate
  )

  def step(carry: Any, key: jax.Array) -> Any:
    params, state = carry
    noise = jax.random.normal(key, (4000,))
    gradients = jax.tree.map(lambda _: noise, params)
    updates, state = transform.update(gradients, state, params)
    moved: Any = optax.apply_updates(params, updates)
    changed = {
      name: jnp.mean(
        ring.quantize(params[name]['conv']['latent'])
        != ring.quantize(moved[name]['conv']['latent'])
      )
      for name, ring in RINGS.items()
    }
    return (moved, state), changed

  params = latents()
  run = jax.jit(functools.partial(jax.lax.scan, step))
  _, changed = run((params, transform.init(params)), jax.random.split(jax.random.key(0), steps))
  return jax.tree.map(np.asarray, changed)


@pytest.mark.parametrize('first_rate', [1e-3, 1.0])
def test_shares_reach_their_target_from_above_and_below(first_rate: float):
  found = shares(first_rate, TARGET)
  # Levels of 15 lie closer than those of 3, by this in deviations.
  closer = quantizers.least_error_clip(2) / 3 / (quantizers.least_error_clip(4) / 15)
  for name, wanted in (('path_2', TARGET), ('path_6', TARGET * closer)):
    far = found[name][:5].mean() / wanted
    assert far > 1.5 if first_rate == 1 else far < 0.5
    assert found[name][-40:].mean() == pytest.approx(wanted, rel=0.15)


def test_nothing_moves_without_a_target():
  assert all(share[-20:].mean() < 0.002 for share in shares(1e-2, 0.0).values())


def test_a_rate_that_is_right_stays():
  params = {'path_2': {'conv': {'latent': jnp.zeros(4)}}}
  rings = {'path_2': Ring(2, jnp.sign)}
  transform = transition_rate.scale_by_transition_rate(lambda step: jnp.asarray(0.25), rings, 0.1)
  state: Any = transform.init(params)
  # One code of four changes in every step, as is wanted.
  gradients = {'path_2': {'conv': {'latent': jnp.asarray([1.0, 0.0, 0.0, 0.0])}}}
  for _ in range(20):
    _, state = jax.jit(transform.update)(gradients, state, params)
    np.testing.assert_allclose(np.exp(state.log_rate['path_2']), 0.1, rtol=1e-5)


def test_rates_stay_in_bounds():
  transform = transition_rate.scale_by_transition_rate(lambda step: jnp.asarray(0.5), RINGS, 0.1)
  params = latents(10)
  nothing = jax.tree.map(jnp.zeros_like, params)
  state: Any = transform.init(params)
  update = jax.jit(transform.update)
  for _ in range(200):
    updates, state = update(nothing, state, params)
    chex.assert_trees_all_equal(updates, nothing)
  # Gradients of 0 change no code at any rate.
  np.testing.assert_allclose(np.exp(state.log_rate['path_2']), 0.1 * 1e3, rtol=1e-4)


@pytest.mark.parametrize(('width', 'most'), [(2, 1.0), (8, 0.031), (16, 0.00018)])
def test_a_target_that_no_rate_reaches_is_refused(width: int, most: float):
  def build(target: float) -> None:
    rings = {'path_2': ring(2), 'path_18': ring(width)}
    optimizer.sgd(config_lib.Optimizer(transition_rate=target), 0.1, rings)

  build(0.95 * most)
  if most < 1:
    with pytest.raises(
      ValueError, match=f'a ring of {width} bits in a step: give less than {most}'
    ):
      build(1.05 * most)


def parameters() -> dict[str, Any]:
  rng = np.random.default_rng(1)

  def path() -> dict[str, Any]:
    return {
      'conv': {'latent': jnp.asarray(rng.normal(size=(3, 3, 2, 4)), jnp.float32)},
      'norm': {'scale': jnp.asarray(rng.normal(size=4), jnp.float32)},
      'pact': {'clip': jnp.asarray(6.0)},
    }

  own = path()
  del own['conv']
  return {'path_2': path(), 'path_6': path(), 'companion_2_8': own}


def run(config: config_lib.Optimizer, steps: int = 5) -> tuple[Any, Any]:
  schedule = optimizer.learning_rate_schedule(config, epochs=2, steps_per_epoch=4)
  rings = from_config.rings(config_lib.Quantization(bits=BITS))
  transform = optimizer.sgd(config, schedule, rings)
  params: Any = parameters()
  state = transform.init(params)
  for number in range(steps):
    gradients = jax.tree.map(lambda leaf, n=number: jnp.sin(leaf + n), params)
    # Optax's schedules mix dtypes.
    with jax.numpy_dtype_promotion('standard'):
      updates, state = transform.update(gradients, state, params)
    params = optax.apply_updates(params, updates)
  return params, state


def without_latents(params: Any) -> Any:
  return {
    name: {layer: leaf for layer, leaf in tree.items() if layer != 'conv'}
    for name, tree in params.items()
  }


def test_other_parameters_are_trained_as_without_it():
  fields: dict[str, Any] = {'schedule': 'cosine', 'warmup_epochs': 0.5, 'clip_learning_rate': 0.1}
  plain, _ = run(config_lib.Optimizer(**fields))
  steered, _ = run(config_lib.Optimizer(**fields, transition_rate=0.01))
  chex.assert_trees_all_equal(without_latents(steered), without_latents(plain))
  for name in ('path_2', 'path_6'):
    assert np.any(steered[name]['conv']['latent'] != plain[name]['conv']['latent'])
  # It starts at the peak rate, and does not follow the schedule: its target does.
  one, _ = run(config_lib.Optimizer(**fields, transition_rate=0.01), steps=1)
  start = parameters()['path_2']['conv']['latent']
  step = 0.1 * (jnp.sin(start) + 5e-4 * start)
  np.testing.assert_allclose(one['path_2']['conv']['latent'], start - step, rtol=1e-5)


def test_its_target_follows_the_schedule(monkeypatch: pytest.MonkeyPatch):
  seen: list[float] = []
  original = transition_rate.scale_by_transition_rate

  def spy(target: Any, *rest: Any) -> Any:
    seen.extend(float(target(step)) for step in (0, 2, 8))
    return original(target, *rest)

  monkeypatch.setattr(transition_rate, 'scale_by_transition_rate', spy)
  config = config_lib.Optimizer(schedule='cosine', warmup_epochs=1.0, transition_rate=0.02)
  schedule = optimizer.learning_rate_schedule(config, epochs=3, steps_per_epoch=4)
  optimizer.sgd(config, schedule, RINGS)
  # Warm-up rises by a quarter of the peak in each of its four steps.
  np.testing.assert_allclose(seen, [0.005, 0.015, 0.01], atol=1e-6)


def test_its_state_survives_a_checkpoint(tmp_path: Any):
  _, state = run(config_lib.Optimizer(transition_rate=0.02))
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.save(state, {}, step=5)
  checkpoints.wait()
  like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
  restored = checkpoints.restore(like)
  checkpoints.close()
  assert restored is not None
  chex.assert_trees_all_equal(restored.state, state)
  rates = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == ()]
  # Counters, and rate and share of each ring, none where it started.
  assert len(rates) >= 5
