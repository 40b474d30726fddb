"""Measures what the second start of a training saves by finding its step in the compile cache.

    python -m benchmarks.compile_cache [--json=FILE] [--depth=20]

Starts `dpoq train --dry-run` twice, with a cache directory that is empty at first: a
CIFAR ResNet at 2, 4, 8 and 16 bits, on digits. `second_over_first` is the ratio of the times that
compiling takes.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import flags
import rich.table

from benchmarks import command

_JSON = flags.DEFINE_string('json', None, 'file for the figures')
_DEPTH = flags.DEFINE_integer('depth', 20, 'depth of the CIFAR ResNet')

ROOT = pathlib.Path(__file__).parents[1]


def start(cache: str) -> dict[str, float]:
  """Measures the seconds of one start: of compiling the training step, and in all."""
  command = [sys.executable, '-m', 'dpoq_jax.train', '--dry-run']
  command.append(f'--config.model.depth={_DEPTH.value}')
  overridden = ('JAX_COMPILATION_CACHE_DIR', 'JAX_ENABLE_COMPILATION_CACHE')
  environment = {k: v for k, v in os.environ.items() if k not in overridden}
  started = time.perf_counter()
  done = subprocess.run(
    command,
    cwd=ROOT,
    env={**environment, 'XDG_CACHE_HOME': cache},
    text=True,
    stdout=subprocess.PIPE,
    check=False,
  )
  if done.returncode:
    # It has said why.
    raise ValueError(f'dpoq train --dry-run failed: exit status {done.returncode}.')
  seconds = time.perf_counter() - started
  [compiling] = re.findall(r'compiling +│ +([\d.]+) s', done.stdout)
  return {'compiling': float(compiling), 'in_all': seconds}


def main(_: list[str]) -> None:
  """Measures, prints the table, writes the figures."""
  with tempfile.TemporaryDirectory() as cache:
    first, second = start(cache), start(cache)
    size = sum(path.stat().st_size for path in pathlib.Path(cache).rglob('*') if path.is_file())
  figures: dict[str, Any] = {
    'second_over_first': second['compiling'] / first['compiling'],
    'first': first,
    'second': second,
    'cache_bytes': size,
    'model': f'resnet{_DEPTH.value}',
  }
  table = rich.table.Table(title=f'{figures["model"]}, four precisions')
  for column in ('start', 'compiling, s', 'in all, s'):
    table.add_column(column, justify='right')
  for name in ('first', 'second'):
    table.add_row(name, f'{figures[name]["compiling"]:.1f}', f'{figures[name]["in_all"]:.1f}')
  console = command.console()
  console.print(table)
  console.print(f'second / first: {figures["second_over_first"]:.3f}; cache {size / 1e6:.1f} MB')
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(figures, indent=2) + '\n')


if __name__ == '__main__':
  command.start(main)
