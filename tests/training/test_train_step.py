import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpoq_jax import config as config_lib
from dpoq_jax.core.spec import LayerOptions
from dpoq_jax.network import from_config, onion_network
from dpoq_jax.training import optimizer
from dpoq_jax.training.train_step import create_state, make_train_step
from tests.fast import jit
from tests.tiny_model import TinyNet

BATCH = 8


@pytest.fixture(scope='module')
def parts():
  network = onion_network.Onion(TinyNet(num_classes=3), bits=(2, 4))
  config = config_lib.Config(data=config_lib.Data(pad=1, flip=True))
  transform = optimizer.sgd(config.optimizer, 0.05)
  rng = np.random.default_rng(0)
  batch = {
    'image': jnp.asarray(rng.integers(0, 256, (BATCH, 8, 8, 1), dtype=np.uint8)),
    'label': jnp.asarray(rng.integers(0, 3, BATCH), jnp.int32),
  }
  state = create_state(network, transform, jax.random.key(0), batch['image'])
  # At most one compilation: a shape, dtype or constant that changes from step to step would show.
  step = jax.jit(
    chex.assert_max_traces(
      make_train_step(network, transform, config, padding=config.data.pad), n=1
    )
  )
  return state, step, batch


def poisoned(state: Any, poison: float) -> Any:
  """The state with one clip of the 4-bit path replaced."""
  state = jax.tree.map(jnp.array, state)
  state.params['path_4']['stem_pact']['clip'] = jnp.float32(poison)
  return state


def test_steps_train_and_are_traced_once(parts):
  state, step, batch = parts
  losses = []
  for _ in range(50):
    state, loss = step(state, batch)
    losses.append(float(loss.sum()))
  # Eight examples are learnt by heart; augmentation makes single steps jump.
  assert np.mean(losses[-10:]) < 0.6 * losses[0], losses
  assert int(state.step) == 50
  assert int(state.skipped) == 0
  assert int(state.metrics.steps) == 50
  np.testing.assert_allclose(state.metrics.loss.sum(), sum(losses), rtol=1e-5)


@pytest.mark.parametrize('poison', [np.nan, np.inf])
def test_non_finite_step_changes_nothing_but_the_counters(parts, poison):
  state, step, batch = parts
  state, _ = step(state, batch)
  before = poisoned(state, poison)
  after, losses = step(before, batch)
  assert not np.all(np.isfinite(losses))
  for part in ('params', 'collections', 'opt_state', 'metrics'):
    # assert_trees_all_equal takes NaN for equal to NaN.
    chex.assert_trees_all_equal(getattr(after, part), getattr(before, part))
  assert int(after.skipped) == int(before.skipped) + 1
  # The next step sees the next batch and other augmentations.
  assert int(after.step) == int(before.step) + 1


def test_every_parameter_and_statistic_is_trained(parts):
  state, step, batch = parts
  after, _ = step(state, batch)
  for part in ('params', 'collections'):
    before_leaves = jax.tree_util.tree_leaves_with_path(getattr(state, part))
    for (path, old), new in zip(before_leaves, jax.tree.leaves(getattr(after, part)), strict=True):
      assert np.any(old != new), f'{part}{jax.tree_util.keystr(path)} did not change'


@pytest.mark.parametrize('fixed', [0, 1])
def test_parts_normalised_apart_are_steps_of_their_own(fixed: int):
  network = onion_network.Onion(
    TinyNet(num_classes=3), bits=(2, 4), options=LayerOptions(shift_init=0.5)
  )
  config = config_lib.Config(data=config_lib.Data(pad=0))
  transform = optimizer.sgd(config.optimizer, 0.1)
  rng = np.random.default_rng(0)
  batch = {
    'image': jnp.asarray(rng.integers(0, 256, (12, 8, 8, 1), dtype=np.uint8)),
    'label': jnp.asarray(rng.integers(0, 3, 12), jnp.int32),
  }
  create = functools.partial(create_state, network, transform)
  state = jit(create)(jax.random.key(0), batch['image'])

  def step(groups: int):
    return jit(make_train_step(network, transform, config, fixed, groups))

  one = step(1)
  parts = [one(state, {k: v[i : i + 4] for k, v in batch.items()}) for i in (0, 4, 8)]
  found, losses = step(3)(state, batch)
  # Gradients, decay and running averages are linear in the parts.
  states, losses_of_parts = zip(*parts, strict=True)
  mean = jax.tree.map(lambda *leaves: sum(leaves) / 3, *[(s.params, s.collections) for s in states])
  for a, b in zip(
    jax.tree.leaves((found.params, found.collections)), jax.tree.leaves(mean), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(losses, sum(losses_of_parts) / 3, rtol=1e-5)
  if fixed:
    jax.tree.map(
      np.testing.assert_array_equal, found.collections['psbn_2'], state.collections['psbn_2']
    )


@pytest.mark.parametrize('transition_rate', [0.0, 0.01])
def test_a_skipped_step_delays_no_schedule(transition_rate: float):
  network = onion_network.Onion(TinyNet(num_classes=3), bits=(2, 4))
  settings = config_lib.Optimizer(
    learning_rate=0.1, schedule='steps', decay_epochs=(2.0,), transition_rate=transition_rate
  )
  config = config_lib.Config(data=config_lib.Data(pad=0), optimizer=settings)
  rate = optimizer.learning_rate_schedule(settings, epochs=4, steps_per_epoch=1)
  rings = from_config.rings(config_lib.Quantization(bits=(2, 4)))
  transform = optimizer.sgd(settings, rate, rings)
  rng = np.random.default_rng(0)
  batch = {
    'image': jnp.asarray(rng.integers(0, 256, (BATCH, 8, 8, 1), dtype=np.uint8)),
    'label': jnp.asarray(rng.integers(0, 3, BATCH), jnp.int32),
  }
  with jax.numpy_dtype_promotion('standard'):
    state = create_state(network, transform, jax.random.key(0), batch['image'])
    step = jit(make_train_step(network, transform, config))
    state, _ = step(state, batch)
    clip = state.params['path_4']['stem_pact']['clip']
    skipped, _ = step(poisoned(state, np.nan), batch)
  assert int(skipped.skipped) == 1
  mended = poisoned(skipped, clip)
  counts = [
    (path[-1].name, int(leaf))
    for path, leaf in jax.tree_util.tree_leaves_with_path(mended.opt_state)
    if getattr(path[-1], 'name', None) in ('count', 'step')
  ]
  # The rate of the next step is that of step 2, which the log says, too: it has dropped.
  assert counts
  assert {count for _, count in counts} == {2} == {int(mended.step)}
  np.testing.assert_allclose(rate(2), 0.01, rtol=1e-6)
