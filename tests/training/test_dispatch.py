"""Steps dispatched several at once are the steps dispatched one by one."""

import contextlib
import itertools
from typing import Any

import chex
import jax
import numpy as np
import pytest

from dpoq_jax import config as config_lib
from dpoq_jax.training import dispatch, experiment


def build(bits: tuple[int, ...] = (2,), **fields: Any) -> experiment.Experiment:
  """The embedded job, shrunk: 22 steps an epoch."""
  return experiment.build(
    config_lib.Config(
      model=config_lib.Model(width=4),
      quantization=config_lib.Quantization(bits=bits),
      optimizer=config_lib.Optimizer(learning_rate=1e-3),
      **fields,
    )
  )


def run(setup: experiment.Experiment, start: int, state: Any, steps: int) -> tuple[Any, Any]:
  """So many steps from one on."""
  take_steps = dispatch.compile_steps(setup, state, start=start)
  losses = None
  with contextlib.closing(take_steps.batches(start)) as batches:
    for batch in itertools.islice(batches, steps // take_steps.count):
      state, losses = take_steps(state, batch)
  return state, losses


def test_many_steps_at_once_are_the_same_steps():
  singly, at_once = (build((2, 4), log_every=2, steps_per_dispatch=most) for most in (1, 2))
  expected, losses = run(singly, 0, singly.create_state(), 4)
  # In two parts, as a run that is resumed.
  half, _ = run(at_once, 0, at_once.create_state(), 2)
  found, found_losses = run(at_once, 2, half, 2)
  assert int(found.step) == int(found.metrics.steps) == 4
  chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(found_losses, losses, rtol=1e-4)


def test_the_examples_are_those_of_the_order():
  setup = build(log_every=11, steps_per_dispatch=20)
  take_steps = dispatch.compile_steps(setup, setup.create_state())
  assert take_steps.count == 11
  dispatched = list(take_steps.batches(33))
  assert len(dispatched) == (setup.total_steps - 33) / 11
  for number, indices in enumerate(dispatched):
    first = 33 + 11 * number
    assert indices.dtype == np.int32
    for step, chosen in enumerate(np.asarray(indices), start=first):
      np.testing.assert_array_equal(chosen, setup.order.examples(step))


@pytest.mark.parametrize(
  ('most', 'start', 'fields', 'count'),
  [
    (None, 0, {'log_every': 22}, 1),  # CPU's default.
    (1, 0, {'log_every': 22}, 1),
    (50, 0, {'log_every': 22}, 22),
    (50, 0, {'log_every': 110}, 22),
    (21, 0, {'log_every': 22}, 11),
    (50, 4, {'log_every': 22}, 2),
    (50, 0, {'log_every': 20}, 2),
    (50, 0, {'log_every': 22, 'checkpoint_every': 11}, 11),
    (50, 0, {'log_every': 22, 'checkpoint_every': 7}, 1),
  ],
)
def test_a_dispatch_never_runs_past_what_comes_between_steps(
  most: int | None, start: int, fields: dict[str, Any], count: int
):
  assert dispatch.steps_at_once(build(steps_per_dispatch=most, **fields), start) == count


@pytest.mark.parametrize('most', [1, 2])
def test_nothing_travels_to_the_devices_unasked(most: int):
  setup = build(log_every=2, steps_per_dispatch=most)
  state = setup.create_state()
  take_steps = dispatch.compile_steps(setup, state)
  batch = jax.device_get(next(take_steps.batches(0)))
  with pytest.raises(Exception, match='Disallowed host-to-device transfer'):
    take_steps(state, batch)
