"""Measures what it saves to write PACT codes to memory once, instead of rounding anew.

    python -m benchmarks.pact_codes [--json=FILE] [--depth=8] [--bits=2,4] [--batch-size=128]
        [--rounds=N] [--steps=N]

`core.quantizers._kept_in_memory` gives XLA's CPU compiler the codes of activations in a form that
it does not compute again for every reader. Here a training step with it and one without it, where
the function returns the codes as they are, take turns, round after round; figures are medians over
rounds, and `without_over_with` is the median of each round's ratio. On other devices than CPU the
two are the same program.
"""

from collections.abc import Callable
import itertools
import json
import pathlib
import platform
import statistics
import time
from typing import Any
from unittest import mock

from absl import flags
import jax
import numpy as np
import rich.table

from benchmarks import command
from dpoq_jax import config as config_lib
from dpoq_jax.core import quantizers
from dpoq_jax.data import corrupt_records, in_memory
from dpoq_jax.network import costs
from dpoq_jax.training import steps_per_dispatch
from dpoq_jax.training.experiment import Experiment, assemble

_JSON = flags.DEFINE_string('json', None, 'file for the figures')
_DEPTH = flags.DEFINE_integer('depth', 8, 'depth of the CIFAR ResNet')
_BITS = flags.DEFINE_list('bits', ['2', '4'], 'bit list of the network')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 128, 'images per step')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'rounds that are measured, after one that is not')
_STEPS = flags.DEFINE_integer('steps', 3, 'timed steps of each program in a round')

CLASSES = 10
ACTIVATION_BITS = 8


class TrainingStep:
  """Holds a compiled training step and takes steps with it.

  Attributes:
    peak_bytes: memory of the step at its peak, by XLA's count.
    bytes_accessed: bytes that the step reads and writes, by XLA's count.
    seconds: seconds per step, one entry for each round.
  """

  def __init__(self, experiment: Experiment) -> None:
    """Compiles the step."""
    self._state = experiment.create_state()
    self._take_steps = steps_per_dispatch.compile_steps(experiment, self._state)
    steps = experiment.steps_per_epoch
    batches = list(self._take_steps.batches(experiment.total_steps - steps))
    self._batches = itertools.cycle(batch for _, batch in batches)
    self._steps_per_batch = batches[0][0]
    analysis: Any = self._take_steps.program.cost_analysis()
    self.peak_bytes = costs.peak_memory(self._take_steps.program)
    self.bytes_accessed = float(analysis['bytes accessed'])
    self.seconds: list[float] = []

  def measure(self, steps: int) -> None:
    """Times one round, after a step that is not timed: it takes its memory from the system."""
    self._run()
    started = time.perf_counter()
    for _ in range(steps):
      self._run()
    self.seconds.append((time.perf_counter() - started) / (steps * self._steps_per_batch))

  def _run(self) -> None:
    """Takes the steps of one batch and waits for them."""
    self._state, losses = self._take_steps(self._state, next(self._batches))
    jax.block_until_ready((self._state, losses))


def build() -> Experiment:
  """Builds the experiment: random images, a CIFAR ResNet, activations of 8 bits."""
  size = 4 * _BATCH_SIZE.value
  config = config_lib.Config(
    log_every=size // _BATCH_SIZE.value,
    data=config_lib.Data(batch_size=_BATCH_SIZE.value, pad=4, flip=True),
    model=config_lib.Model(depth=_DEPTH.value),
    quantization=config_lib.Quantization(
      bits=tuple(map(int, _BITS.value)), activation_bits=ACTIVATION_BITS
    ),
  )
  rng = np.random.default_rng(0)
  images = in_memory.ImageSet(
    rng.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8),
    rng.integers(0, CLASSES, size, dtype=np.int32),
    tuple(map(str, range(CLASSES))),
  )
  return assemble(config, images, images, images, corrupt_records.Tally(0))


def as_they_are(codes: jax.Array, x: jax.Array) -> jax.Array:
  """Returns the codes: what `_kept_in_memory` is on accelerators."""
  del x
  return codes


def compiled(kept: Callable[[jax.Array, jax.Array], jax.Array]) -> TrainingStep:
  """Compiles the training step with `kept` in place of `quantizers._kept_in_memory`."""
  # JAX keeps what it traced, and would not notice that the function is another one.
  jax.clear_caches()
  with mock.patch.object(quantizers, '_kept_in_memory', kept):
    return TrainingStep(build())


def report(programs: dict[str, TrainingStep]) -> dict[str, Any]:
  """Returns the figures, as written by `--json`."""
  ratios = np.array(programs['without'].seconds) / np.array(programs['with'].seconds)
  return {
    'without_over_with': statistics.median(ratios),
    'rounds_without_over_with': ratios.tolist(),
    'programs': {
      name: {
        'seconds_per_step': statistics.median(program.seconds),
        'images_per_second': _BATCH_SIZE.value / statistics.median(program.seconds),
        'bytes_accessed': program.bytes_accessed,
        'peak_bytes': program.peak_bytes,
      }
      for name, program in programs.items()
    },
    'model': f'resnet{_DEPTH.value}',
    'bits': list(map(int, _BITS.value)),
    'activation_bits': ACTIVATION_BITS,
    'batch_size': _BATCH_SIZE.value,
    'rounds': _ROUNDS.value,
    'device': jax.devices()[0].device_kind,
    'processor': platform.machine(),
    'jax': jax.__version__,
  }


def main(_: list[str]) -> None:
  """Measures, prints the table, writes the figures."""
  programs = {'with': compiled(quantizers._kept_in_memory), 'without': compiled(as_they_are)}
  for round_number in range(_ROUNDS.value + 1):
    for program in programs.values():
      program.measure(_STEPS.value)
      if round_number == 0:
        program.seconds.clear()
  figures = report(programs)
  bits = ', '.join(_BITS.value)
  table = rich.table.Table(title=f'ResNet-{_DEPTH.value} at {bits} bits, batch {_BATCH_SIZE.value}')
  for column in ('codes kept in memory', 'ms / step', 'images/s', 'GB accessed', 'peak MB'):
    table.add_column(column, justify='right')
  for name, measured in figures['programs'].items():
    table.add_row(
      name,
      f'{1000 * measured["seconds_per_step"]:.0f}',
      f'{measured["images_per_second"]:.1f}',
      f'{measured["bytes_accessed"] / 1e9:.2f}',
      f'{measured["peak_bytes"] / 1e6:.0f}',
    )
  console = command.console()
  console.print(table)
  console.print(f'without / with: {figures["without_over_with"]:.3f}')
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(figures, indent=2) + '\n')


if __name__ == '__main__':
  command.start(main)
