"""What a run will take, found by a few of its steps, before it is begun."""

import contextlib
import itertools
import time
from typing import Any

import jax
import rich.table

from dpoq_jax.network import costs
from dpoq_jax.training import experiment, steps_per_dispatch, warm_start

# Dispatches that are timed, after one that warms what they find warm.
_TIMED = 5


def rehearse(setup: experiment.Experiment) -> dict[str, Any]:
  """Compiles the training step, dispatches it a few times, keeps nothing.

  Args:
    setup: what would be trained.

  Returns:
    `parameters` of each path (and in all), `flops` of a step and `peak_bytes` per device by XLA's
    count, `compile_seconds`, `examples_per_second` and `train_seconds` of the whole run, compiling,
    evaluating and saving not counted.

  Raises:
    FileNotFoundError, ConfigError, CheckpointError: if `config.init_from` cannot be started from.
  """
  state, fixed = warm_start.initial_state(setup)
  parameters = {
    name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in state.params.items()
  }
  started = time.perf_counter()
  step = steps_per_dispatch.compile_steps(setup, state, fixed=fixed)
  compile_seconds = time.perf_counter() - started
  analysis: Any = step.program.cost_analysis()
  with contextlib.closing(step.batches(0)) as batches:
    ends, taken = [time.perf_counter()], [0]
    for steps, batch in itertools.islice(batches, 1 + _TIMED):
      state, losses = step(state, batch)
      jax.block_until_ready(losses)
      ends.append(time.perf_counter())
      taken.append(taken[-1] + steps)
  # Without the first one, unless there is no other.
  first = min(1, len(ends) - 2)
  seconds = (ends[-1] - ends[first]) / (taken[-1] - taken[first])
  return {
    'parameters': {**parameters, 'all': sum(parameters.values())},
    'flops': float(analysis['flops']),
    'peak_bytes': costs.peak_memory(step.program),
    'compile_seconds': compile_seconds,
    'examples_per_second': setup.config.data.batch_size / seconds,
    'train_seconds': seconds * setup.total_steps,
  }


def table(found: dict[str, Any]) -> rich.table.Table:
  """What was found, for people."""
  result = rich.table.Table(title='a dry run: nothing was written', show_header=False)
  for name, count in found['parameters'].items():
    result.add_row(f'parameters, {name}', f'{count:,}')
  result.add_row('FLOPs of a step', f'{found["flops"]:.3g}')
  result.add_row('memory of a device', f'{found["peak_bytes"] / 1e6:,.0f} MB')
  result.add_row('compiling', f'{found["compile_seconds"]:.1f} s')
  result.add_row('speed', f'{found["examples_per_second"]:,.0f} examples/s')
  result.add_row('training', f'{found["train_seconds"] / 3600:.2f} h')
  return result
