"""Measures what early exit saves: a cascade against the full forward pass, on a trained network.

    python -m benchmarks.cascade --workdir=DIR|--pretrained=NAME [--json=FILE] [--images=N]
        [--rounds=N] [--batch-sizes=1,8,256]

The network has an operating point: `dpoq calibrate` gives it to a run. The cascade and the full
pass, compiled with the same options, get test images in batches of the same size, in turn, round
after round; times are medians over rounds, ratios medians of those of each round. The ideal
speed-up is the number of path computations of the full pass over the number that the cascade
needed; `efficiency` is the measured speed-up over the ideal one. A cascade runs a large batch in
small pieces, which alone makes it faster: `in_pieces` is the full pass in pieces of that size, to
tell the two effects apart. Compiling is what the first round takes longer than the others. Memory
is that of the process (on Linux): its peak while one batch of the largest size runs, less what it
held before.
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

from absl import flags, logging
import jax
import numpy as np
import rich.table

from benchmarks import command
from dpoq_jax import classifier
from dpoq_jax.cli.flags import required_path
from dpoq_jax.data import in_memory
from dpoq_jax.inference import cascade as cascade_lib
from dpoq_jax.inference import pools
from dpoq_jax.runtime import compiler
from dpoq_jax.runtime.workdir import read_config

_WORKDIR = flags.DEFINE_string('workdir', None, 'directory of a run with an operating point')
_PRETRAINED = flags.DEFINE_string('pretrained', None, 'a network that comes with the library')
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'where its data set is, if it moved')
_JSON = flags.DEFINE_string('json', None, 'file for the figures')
_ROUNDS = flags.DEFINE_integer('rounds', 9, 'rounds that are measured, after one that is not')
_IMAGES = flags.DEFINE_integer('images', 512, 'test images of a round, or a batch if that is more')
_BATCH_SIZES = flags.DEFINE_list(
  'batch_sizes', ['1', '2', '4', '8', '16', '32', '64', '256'], 'images of a call'
)


def measure(
  full: Callable[[np.ndarray], Any],
  cascade: cascade_lib.Cascade,
  images: np.ndarray,
  batch_size: int,
) -> dict[str, Any]:
  """Returns the figures of one batch size."""
  # What smaller batches compiled would be missing from what this one compiles.
  jax.clear_caches()
  images = images[: max(_IMAGES.value, batch_size)]
  batches = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
  # A remainder would have the full pass compiled for another shape.
  batches = [batch for batch in batches if len(batch) == batch_size]
  size = min(batch_size, cascade.path_batch_size)
  systems = {
    'full': lambda: [np.asarray(full(batch)) for batch in batches],
    'cascade': lambda: [cascade(batch) for batch in batches],
    'stream': lambda: list(cascade.stream(batches)),
    'in_pieces': lambda: [
      np.asarray(full(batch[i : i + size])) for batch in batches for i in range(0, batch_size, size)
    ],
  }
  seconds: dict[str, list[float]] = {name: [] for name in systems}
  for _ in range(_ROUNDS.value + 1):
    for name, run in systems.items():
      started = time.perf_counter()
      run()
      seconds[name].append(time.perf_counter() - started)
  first = {name: each.pop(0) for name, each in seconds.items()}

  before = [list(each) for each in (cascade.counts.inputs, cascade.counts.padded)]
  compaction, total = timed_compaction(systems['cascade'])
  inputs, padded = (
    [now - then for now, then in zip(after, earlier, strict=True)]
    for after, earlier in zip((cascade.counts.inputs, cascade.counts.padded), before, strict=True)
  )
  ideal = len(inputs) * inputs[0] / sum(inputs)

  def ratio(one: str, other: str) -> float:
    return statistics.median(np.array(seconds[one]) / np.array(seconds[other]))

  def compiling(name: str) -> float:
    return max(0.0, first[name] - statistics.median(seconds[name]))

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
    'padding_share': 1 - sum(inputs) / sum(padded),
    'compaction_share': compaction / total,
    'full_compile_seconds': compiling('full'),
    'cascade_compile_seconds': compiling('cascade'),
  }


def timed_compaction(run: Callable[[], Any]) -> tuple[float, float]:
  """Returns the seconds spent on copies into pools, and in all, in a pass without overlap."""
  spent = 0.0
  add, run_path = pools.Pool.add, pools.Paths.run

  def alone(*arguments: Any) -> Any:
    return jax.block_until_ready(run_path(*arguments))

  def timed(pool: pools.Pool, *arguments: Any) -> int:
    nonlocal spent
    started = time.perf_counter()
    taken = add(pool, *arguments)
    jax.block_until_ready(pool.inputs)
    spent += time.perf_counter() - started
    return taken

  with (
    mock.patch.object(pools.Pool, 'add', timed),
    mock.patch.object(pools.Paths, 'run', alone),
  ):
    started = time.perf_counter()
    run()
    return spent, time.perf_counter() - started


def peak_memory(run: Callable[[], Any]) -> int | None:
  """Returns the bytes that a second `run` adds to the process at its peak; None but on Linux."""
  run()
  gc.collect()
  try:
    # Memory that was freed but not returned would be used again without being counted.
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path('/proc/self/clear_refs').write_text('5')
    before = _status('VmRSS')
    run()
    return _status('VmHWM') - before
  except (OSError, AttributeError):
    return None


def _status(field: str) -> int:
  """Returns a figure of this process in bytes, from Linux."""
  lines = pathlib.Path('/proc/self/status').read_text().splitlines()
  (line,) = (line for line in lines if line.startswith(field))
  return 1024 * int(line.split()[1])


def _opened() -> tuple[classifier.Classifier, str, np.ndarray]:
  """Opens the network that flags name; returns its name and test images of its data set, too.

  Raises:
    ValueError: if two are named, or one without an operating point of a data set.
  """
  if _PRETRAINED.value and _WORKDIR.value:
    raise ValueError('--workdir and --pretrained are both given: give one of them.')
  if _PRETRAINED.value:
    opened, name, folder = classifier.load_pretrained(_PRETRAINED.value), _PRETRAINED.value, None
  else:
    workdir = required_path(flags.FLAGS, 'workdir')
    opened, config = classifier.load(workdir), read_config(workdir)
    name, folder = config.model.label, config.data.dir
  point = opened.operating_point
  if point is None or point.data is None:
    raise ValueError(f'{name} has no operating point of a data set: run dpoq calibrate.')
  return opened, name, in_memory.load(point.data.dataset, 'test', _DATA_DIR.value or folder).images


def main(_: list[str]) -> None:
  """Measures, prints a table and writes the figures."""
  logging.set_verbosity(logging.ERROR)
  opened, name, images = _opened()
  point, network, variables = opened.operating_point, opened.network, opened.variables
  assert point is not None
  cascade = cascade_lib.Cascade(network, variables, point)
  # Held on the device, as the cascade has them.
  held = jax.device_put(variables)
  apply = jax.jit(network.apply, compiler_options=compiler.options())

  def full(batch: np.ndarray) -> Any:
    return apply(held, batch)

  sizes = sorted(map(int, _BATCH_SIZES.value))
  if not sizes or not 1 <= sizes[0] <= sizes[-1] <= len(images):
    raise ValueError(
      f'--batch-sizes={",".join(_BATCH_SIZES.value)}: give 1 to {len(images)}, the test images.'
    )
  by_size = {size: measure(full, cascade, images, size) for size in sizes}
  largest = images[: sizes[-1]]
  memory = {
    # A new cascade, so that its pools are counted.
    'cascade': peak_memory(lambda: cascade_lib.Cascade(network, variables, point)(largest)),
    'full': peak_memory(lambda: np.asarray(full(largest))),
  }

  console = command.console()
  table = rich.table.Table(title=f'{name}, bits {network.bits}, key {point.key:.3f}; ms per image')
  columns = (
    'batch', 'full', 'cascade', 'speed-up', 'ideal', 'efficiency', 'as a stream', 'over pieces',
    'padding', 'compaction', 'compiling full', 'cascade',
  )  # fmt: skip
  for column in columns:
    table.add_column(column, justify='right')
  for size, measured in by_size.items():
    table.add_row(
      str(size),
      f'{measured["full_ms_per_image"]:.3f}',
      f'{measured["cascade_ms_per_image"]:.3f}',
      *(f'{measured[key]:.3f}' for key in ('speedup', 'ideal_speedup', 'efficiency')),
      f'{measured["stream_speedup"]:.3f}',
      f'{measured["efficiency_over_pieces"]:.3f}',
      *(f'{measured[key]:.1%}' for key in ('padding_share', 'compaction_share')),
      *(f'{measured[f"{system}_compile_seconds"]:.1f} s' for system in ('full', 'cascade')),
    )
  console.print(table)
  if all(memory.values()):
    megabytes = {name: f'{(size or 0) / 1e6:.0f} MB' for name, size in memory.items()}
    console.print(f'peak memory at batch {sizes[-1]}: {megabytes}')
  figures = {
    'efficiency': {str(size): measured['efficiency'] for size, measured in by_size.items()},
    'batch_sizes': {str(size): measured for size, measured in by_size.items()},
    'peak_bytes': memory,
    'model': name,
    'bits': network.bits,
    'operating_point': json.loads(point.to_json()),
    'rounds': _ROUNDS.value,
    'device': jax.devices()[0].device_kind,
    'processor': platform.machine(),
    'jax': jax.__version__,
  }
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(figures, indent=2) + '\n')


if __name__ == '__main__':
  command.start(main)
