"""Finds out, by a few of its steps, what a run will take before it is begun."""

from collections.abc import Mapping
import contextlib
import dataclasses
import itertools
import re
import resource
import sys
import time
from typing import Any

import jax
import rich.table

from dpoq_jax.network import costs
from dpoq_jax.training import preparation, splits
from dpoq_jax.training.experiment import Experiment

# In which the system counts memory.
_UNIT = 1 if sys.platform == 'darwin' else 1024

# Dispatches that are timed, after a first one, which is slower than the others.
_TIMED = 5


@dataclasses.dataclass(frozen=True)
class Measurement:
  """Holds what a run will take.

  Attributes:
    run: what would be run, in words, by what it is: model, bits, data, where they are, steps.
    parameters: number of parameters, by path, from the lowest up.
    flops: FLOPs of a step, by XLA's count.
    peak_bytes: memory that a step takes on a device at its peak, by XLA's count.
    process_bytes: most memory that this process has had, its steps included, as the system counts
      it: with Python, JAX, the compiler and the data.
    compile_seconds: seconds that compiling the step took.
    examples_per_second: speed of training.
    train_seconds: seconds that all steps of the run will take, without compiling, evaluating and
      saving.
  """

  run: Mapping[str, str]
  parameters: Mapping[str, int]
  flops: float
  peak_bytes: int
  process_bytes: int
  compile_seconds: float
  examples_per_second: float
  train_seconds: float


def measure(experiment: Experiment) -> Measurement:
  """Compiles the training step and takes it a few times, without keeping anything.

  Args:
    experiment: experiment that would be run.

  Raises:
    FileNotFoundError, ConfigError, CheckpointError: if the run cannot start from
      `config.init_from`.
  """
  prepared = preparation.prepare(experiment)
  state, take_steps = prepared.state, prepared.take_steps
  parameters = {
    name: sum(leaf.size for leaf in jax.tree.leaves(state.params[name]))
    for name in sorted(state.params, key=_in_order)
  }
  analysis: Any = take_steps.program.cost_analysis()
  with contextlib.closing(take_steps.batches(0)) as batches:
    ends, taken = [time.perf_counter()], [0]
    for steps, batch in itertools.islice(batches, 1 + _TIMED):
      state, losses = take_steps(state, batch)
      jax.block_until_ready(losses)
      ends.append(time.perf_counter())
      taken.append(taken[-1] + steps)
  # The first dispatch counts only if there is no other.
  first = min(1, len(ends) - 2)
  seconds = (ends[-1] - ends[first]) / (taken[-1] - taken[first])
  sets = {'trained on': experiment.train_set, 'reported on': experiment.test_set}
  where = {name: splits.whereabouts(image_set) for name, image_set in sets.items()}
  return Measurement(
    run={**_described(experiment), **where},
    parameters=parameters,
    flops=float(analysis['flops']),
    peak_bytes=costs.peak_memory(take_steps.program),
    process_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT,
    compile_seconds=prepared.compile_seconds,
    examples_per_second=experiment.config.data.batch_size / seconds,
    train_seconds=seconds * experiment.total_steps,
  )


def _in_order(name: str) -> list[str | int]:
  """Returns the key by which names are sorted as numbers in them go: `path_2` before `path_16`."""
  return [int(part) if part.isdigit() else part for part in re.split('([0-9]+)', name)]


def _described(experiment: Experiment) -> dict[str, str]:
  """Returns what would be run, in words."""
  config, per_epoch = experiment.config, experiment.steps_per_epoch
  bits = ', '.join(map(str, config.quantization.bits))
  return {
    'model': f'{config.model.label}, width {config.model.width or "as published"}',
    'bits': f'{bits}; activations {config.quantization.activation_bits}',
    'data': f'{config.data.name}: {len(experiment.train_set):,} to train on, '
    f'{len(experiment.test_set):,} to test on',
    'batch': f'{config.data.batch_size:,} examples',
    'steps': f'{experiment.total_steps:,}: {config.epochs:,} epochs of {per_epoch:,}',
    'devices': f'{experiment.mesh.size} {experiment.platform}',
  }


def table(measured: Measurement) -> rich.table.Table:
  """Returns the measurement as a table of one line for each number."""
  result = rich.table.Table(title='a dry run: nothing was written', show_header=False)
  for name, words in measured.run.items():
    result.add_row(name, words)
  for name, count in measured.parameters.items():
    result.add_row(f'parameters, {name}', f'{count:,}')
  result.add_row('parameters, all', f'{sum(measured.parameters.values()):,}')
  result.add_row('FLOPs of a step', f'{measured.flops:.3g}')
  result.add_row('memory of a step on a device', f'{measured.peak_bytes / 1e6:,.0f} MB')
  result.add_row('memory of the process at its peak', f'{measured.process_bytes / 1e6:,.0f} MB')
  result.add_row('compiling', f'{measured.compile_seconds:.1f} s')
  result.add_row('speed', f'{measured.examples_per_second:,.0f} examples/s')
  result.add_row('training', f'{measured.train_seconds / 3600:.2f} h')
  return result
