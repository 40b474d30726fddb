"""What early exit saves: a cascade against the full forward pass, on a trained network.

    python -m benchmarks.cascade --workdir=DIR [--json=FILE] [--images=N] [--rounds=N]
        [--batch_sizes=1,256,1024]

DIR is a run with an operating point (`python -m dpoq_jax.calibrate`). Both get the test images in
batches of the same size, in turn, round after round; figures are medians over rounds. The ideal
speed-up counts path computations: all of them over those that inputs needed. `efficiency` is the
measured speed-up over the ideal one. A cascade runs in small pieces, which is faster in itself;
`in_pieces` is the full pass in pieces of that size, so that the two can be told apart. Memory is
the process's own, at its peak while one batch of the largest size runs, over what it was before
(Linux).
"""

from collections.abc import Callable
import ctypes
import gc
import json
import pathlib
import platform
import statistics
import time
from typing import Any
from unittest import mock

from absl import app, flags, logging
import jax
import numpy as np
import rich.console
import rich.table

from dpoq_jax.data import in_memory
from dpoq_jax.inference import cascade as cascade_lib
from dpoq_jax.inference import engine, operating_point, pools
from dpoq_jax.runtime import compiler
from dpoq_jax.runtime.workdir import read_config
from dpoq_jax.training import restore as trained_lib

_WORKDIR = flags.DEFINE_string('workdir', None, 'directory of a run', required=True)
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'where its data set is, if it moved')
_JSON = flags.DEFINE_string('json', None, 'file for the figures')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'rounds that are measured, after one that is not')
_IMAGES = flags.DEFINE_integer('images', 10_000, 'test images of a round')

_BATCH_SIZES = flags.DEFINE_list('batch_sizes', ['1', '8', '32', '256', '1024'], 'images of a call')


def measure(
  full: Callable[[np.ndarray], Any],
  cascade: cascade_lib.Cascade,
  images: np.ndarray,
  batch_size: int,
) -> dict[str, Any]:
  """Figures of one batch size."""
  batches = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
  # A remainder would be another shape of the full pass.
  batches = [batch for batch in batches if len(batch) == batch_size]
  size = min(batch_size, cascade.rows)
  systems = {
    'full': lambda: [np.asarray(full(batch)) for batch in batches],
    'cascade': lambda: [cascade(batch) for batch in batches],
    'stream': lambda: list(cascade.stream(batches)),
    'in_pieces': lambda: [
      np.asarray(full(batch[i : i + size])) for batch in batches for i in range(0, batch_size, size)
    ],
  }
  seconds: dict[str, list[float]] = {name: [] for name in systems}
  for round_number in range(_ROUNDS.value + 1):
    for name, run in systems.items():
      started = time.perf_counter()
      run()
      if round_number:
        seconds[name].append(time.perf_counter() - started)

  before = [list(each) for each in (cascade.counts.inputs, cascade.counts.rows)]
  compaction, total = timed_compaction(systems['cascade'])
  inputs, rows = (
    [now - then for now, then in zip(after, earlier, strict=True)]
    for after, earlier in zip((cascade.counts.inputs, cascade.counts.rows), before, strict=True)
  )
  ideal = len(inputs) * inputs[0] / sum(inputs)

  def ratio(one: str, other: str) -> float:
    return statistics.median(np.array(seconds[one]) / np.array(seconds[other]))

  return {
    'images': inputs[0],
    'full_ms_per_image': 1000 * statistics.median(seconds['full']) / inputs[0],
    'cascade_ms_per_image': 1000 * statistics.median(seconds['cascade']) / inputs[0],
    'ideal_speedup': ideal,
    'speedup': ratio('full', 'cascade'),
    'efficiency': ratio('full', 'cascade') / ideal,
    'stream_speedup': ratio('full', 'stream'),
    'efficiency_over_pieces': ratio('in_pieces', 'cascade') / ideal,
    'path_inputs': inputs,
    'padding_share': 1 - sum(inputs) / sum(rows),
    'compaction_share': compaction / total,
  }


def timed_compaction(run: Callable[[], Any]) -> tuple[float, float]:
  """Seconds spent copying undecided inputs, and in all, in a pass that does one thing at a time."""
  spent = 0.0
  add, run_path = pools.Pool.add, engine.Paths.run

  def alone(*arguments):
    return jax.block_until_ready(run_path(*arguments))

  def timed(pool, rows, *arguments):
    nonlocal spent
    started = time.perf_counter()
    taken = add(pool, rows, *arguments)
    jax.block_until_ready(pool.rows)
    spent += time.perf_counter() - started
    return taken

  with (
    mock.patch.object(pools.Pool, 'add', timed),
    mock.patch.object(engine.Paths, 'run', alone),
  ):
    started = time.perf_counter()
    run()
    return spent, time.perf_counter() - started


def peak_memory(run: Callable[[], Any]) -> int | None:
  """Bytes that the process grew by at its peak while `run` ran once more; None but on Linux."""
  run()
  gc.collect()
  try:
    # What was freed before would otherwise be used again, unseen.
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path('/proc/self/clear_refs').write_text('5')
    before = _status('VmRSS')
    run()
    return _status('VmHWM') - before
  except (OSError, AttributeError):
    return None


def _status(field: str) -> int:
  lines = pathlib.Path('/proc/self/status').read_text().splitlines()
  (line,) = (line for line in lines if line.startswith(field))
  return 1024 * int(line.split()[1])


def main(_: list[str]) -> None:
  """Measures, prints the table, writes the figures."""
  logging.set_verbosity(logging.ERROR)
  workdir = pathlib.Path(_WORKDIR.value)
  point = operating_point.read(workdir)
  trained = trained_lib.load(workdir, point.check(read_config(workdir).data.name, None))
  data = trained.config.data
  images = in_memory.load(data.name, 'test', _DATA_DIR.value or data.dir).images[: _IMAGES.value]
  cascade = cascade_lib.Cascade(trained.network, trained.variables, point)
  apply = jax.jit(trained.network.apply, compiler_options=compiler.options())

  def full(batch: np.ndarray) -> Any:
    return apply(trained.variables, batch)

  sizes = sorted(map(int, _BATCH_SIZES.value))
  rows = {size: measure(full, cascade, images, size) for size in sizes}
  largest = images[: sizes[-1]]
  memory = {
    # A fresh one, so that its pools are counted.
    'cascade': peak_memory(
      lambda: cascade_lib.Cascade(trained.network, trained.variables, point)(largest)
    ),
    'full': peak_memory(lambda: np.asarray(full(largest))),
  }

  console = rich.console.Console()
  model = trained.config.model.label
  table = rich.table.Table(
    title=f'{model}, bits {trained.network.bits}, key {point.key:.3f}; ms per image'
  )
  columns = (
    'batch', 'full', 'cascade', 'speed-up', 'ideal', 'efficiency', 'as a stream', 'over pieces',
    'padding', 'compaction',
  )  # fmt: skip
  for column in columns:
    table.add_column(column, justify='right')
  for size, row in rows.items():
    table.add_row(
      str(size),
      f'{row["full_ms_per_image"]:.3f}',
      f'{row["cascade_ms_per_image"]:.3f}',
      *(f'{row[name]:.3f}' for name in ('speedup', 'ideal_speedup', 'efficiency')),
      f'{row["stream_speedup"]:.3f}',
      f'{row["efficiency_over_pieces"]:.3f}',
      *(f'{row[name]:.1%}' for name in ('padding_share', 'compaction_share')),
    )
  console.print(table)
  if all(memory.values()):
    megabytes = {name: f'{(size or 0) / 1e6:.0f} MB' for name, size in memory.items()}
    console.print(f'peak memory at batch {sizes[-1]}: {megabytes}')
  figures = {
    'efficiency': {str(size): row['efficiency'] for size, row in rows.items()},
    'batch_sizes': {str(size): row for size, row in rows.items()},
    'peak_bytes': memory,
    'model': model,
    'bits': trained.network.bits,
    'operating_point': json.loads(point.to_json()),
    'rounds': _ROUNDS.value,
    'device': jax.devices()[0].device_kind,
    'processor': platform.machine(),
    'jax': jax.__version__,
  }
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(figures, indent=2) + '\n')


if __name__ == '__main__':
  app.run(main)
