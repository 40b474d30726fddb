"""Finds out, by a few of its steps, what a run will take before it is begun."""

from collections.abc import Mapping
import contextlib
import dataclasses
import itertools
import time
from typing import Any

import jax
import rich.table

from dpoq_jax.network import costs
from dpoq_jax.training import preparation, splits
from dpoq_jax.training.experiment import Experiment

# Dispatches that are timed, after a first one, which is slower than the others.
_TIMED = 5


@dataclasses.dataclass(frozen=True)
class Measurement:
  """Holds what a run will take.

  Attributes:
    data: number and size of the images trained and reported on, and where they are, by name.
    parameters: number of parameters, by path.
    flops: FLOPs of a step, by XLA's count.
    peak_bytes: memory that a step takes on a device at its peak, by XLA's count.
    compile_seconds: seconds that compiling the step took.
    examples_per_second: speed of training.
    train_seconds: seconds that all steps of the run will take, without compiling, evaluating and
      saving.
  """

  data: Mapping[str, str]
  parameters: Mapping[str, int]
  flops: float
  peak_bytes: int
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
    name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in state.params.items()
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
  return Measurement(
    data={name: splits.whereabouts(image_set) for name, image_set in sets.items()},
    parameters=parameters,
    flops=float(analysis['flops']),
    peak_bytes=costs.peak_memory(take_steps.program),
    compile_seconds=prepared.compile_seconds,
    examples_per_second=experiment.config.data.batch_size / seconds,
    train_seconds=seconds * experiment.total_steps,
  )


def table(measured: Measurement) -> rich.table.Table:
  """Returns the measurement as a table of one line for each number."""
  result = rich.table.Table(title='a dry run: nothing was written', show_header=False)
  for name, images in measured.data.items():
    result.add_row(name, images)
  for name, count in measured.parameters.items():
    result.add_row(f'parameters, {name}', f'{count:,}')
  result.add_row('parameters, all', f'{sum(measured.parameters.values()):,}')
  result.add_row('FLOPs of a step', f'{measured.flops:.3g}')
  result.add_row('memory of a device', f'{measured.peak_bytes / 1e6:,.0f} MB')
  result.add_row('compiling', f'{measured.compile_seconds:.1f} s')
  result.add_row('speed', f'{measured.examples_per_second:,.0f} examples/s')
  result.add_row('training', f'{measured.train_seconds / 3600:.2f} h')
  return result
