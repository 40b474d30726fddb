"""Steps dispatched several at once are the steps dispatched one by one."""

import contextlib
from typing import Any

import chex
import jax
import numpy as np
import pytest

from dpoq_jax import config as config_lib
from dpoq_jax.training import experiment, steps_per_dispatch


def build(bits: tuple[int, ...] = (2,), **fields: Any) -> experiment.Experiment:
  """The embedded job with the tests' own network: 22 steps an epoch."""
  return experiment.build(
    config_lib.Config(
      model=config_lib.Model(name='tests.tiny_model:TinyNet', depth=None, width=4),
      quantization=config_lib.Quantization(bits=bits),
      optimizer=config_lib.Optimizer(learning_rate=1e-3),
      **fields,
    )
  )


def run(setup: experiment.Experiment, start: int, state: Any, end: int) -> tuple[Any, Any]:
  """The steps from one to another."""
  take_steps = steps_per_dispatch.compile_steps(setup, state)
  losses = None
  with contextlib.closing(take_steps.batches(start)) as batches:
    for steps, batch in batches:
      state, losses = take_steps(state, batch)
      start += steps
      if start >= end:
        break
  assert start == end
  return state, losses


def test_many_steps_at_once_are_the_same_steps():
  singly, at_once = (build((2, 4), log_every=5, steps_per_dispatch=most) for most in (1, 3))
  expected, losses = run(singly, 0, singly.create_state(), 8)
  # 3 and 2 steps, then, as a run that is resumed, 3.
  half, _ = run(at_once, 0, at_once.create_state(), 5)
  found, found_losses = run(at_once, 5, half, 8)
  assert int(found.step) == int(found.metrics.steps) == 8
  chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(found_losses, losses, rtol=1e-4)


def test_the_examples_are_those_of_the_order():
  setup = build(log_every=15, steps_per_dispatch=10)
  take_steps = steps_per_dispatch.compile_steps(setup, setup.create_state())
  step = 33
  for steps, (indices, count) in take_steps.batches(33):
    assert indices.shape == (10, setup.config.data.batch_size)
    assert indices.dtype == np.int32
    assert int(count) == steps
    for chosen in np.asarray(indices)[:steps]:
      np.testing.assert_array_equal(chosen, setup.order.examples(step))
      step += 1
  assert step == setup.total_steps


@pytest.mark.parametrize(
  ('most', 'start', 'fields', 'expected'),
  [
    (None, 0, {'log_every': 22}, [1] * 44),  # CPU's default.
    (50, 0, {'log_every': 50}, [22, 22]),
    (50, 0, {'log_every': 20}, [20, 2, 18, 4]),
    (15, 0, {'log_every': 20}, [15, 5, 2, 15, 3, 4]),
    (50, 7, {'log_every': 50}, [15, 22]),
    (50, 0, {'log_every': 50, 'checkpoint_every': 9}, [9, 9, 4, 5, 9, 8]),
    (50, 44, {'log_every': 50}, []),
  ],
)
def test_a_dispatch_never_runs_past_what_comes_between_steps(
  most: int | None, start: int, fields: dict[str, Any], expected: list[int]
):
  setup = build(steps_per_dispatch=most, epochs=2, **fields)
  found = list(steps_per_dispatch.split_into_dispatches(setup, start))
  assert [len(steps) for steps in found] == expected
  assert [step for steps in found for step in steps] == list(range(start, 44))


@pytest.mark.parametrize('most', [1, 2])
def test_nothing_travels_to_the_devices_unasked(most: int):
  setup = build(log_every=2, steps_per_dispatch=most)
  state = setup.create_state()
  take_steps = steps_per_dispatch.compile_steps(setup, state)
  _, batch = next(take_steps.batches(0))
  with pytest.raises(Exception, match='Disallowed host-to-device transfer'):
    take_steps(state, jax.device_get(batch))
