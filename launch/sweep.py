"""Trains a grid of configs, each point by a command of its own: any of the launch scripts.

    .venv/bin/python launch/sweep.py --workdir=DIR --grid FLAG VALUE... [--grid FLAG VALUE...]
        [--dry-run] -- COMMAND...

The command is run once for each combination of values, one after the other, with `--FLAG=VALUE` and
`--workdir=DIR/POINT` put after it. `{name}` in it becomes a name for what needs one:

    ... --grid config.seed 0 1 2 -- bash launch/local.sh --config=cifar10_resnet8_cpu
    ... --grid config configs/a.py:system=joint configs/a.py -- bash launch/multiprocess.sh 2 --
    ... -- sbatch --nodes=4 launch/slurm.sbatch --config=imagenet_resnet18
    ... -- bash launch/tpu_vm.sh --name={name} --zone=ZONE --share=HOST:/PATH --
    ... -- .venv/bin/python launch/kubernetes.py --name={name} --image=IMAGE --claim=CLAIM --

Every config is checked before anything is run. Points that have a summary.json are left out, so
the same command again takes up what is missing (where the command only submits a job, also what is
still in progress: wait for it). A point that fails leaves the others; the exit status is then 1.
SIGTERM and Ctrl-C go on to the command in progress, and end the sweep. --dry-run prints the
commands.
"""

import argparse
from collections.abc import Sequence
import concurrent.futures
import dataclasses
import hashlib
import itertools
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
_USAGE = ' '.join((__doc__ or '').split('\n\n')[1].split())
# In a process of its own, since config flags are read from the command line. Without JAX: quick.
_CHECK = """
from dpoq_jax.cli.flags import define_config, parsed_config
from dpoq_jax.cli.run import run
run(define_config, lambda flags: parsed_config(flags) and None)
"""


@dataclasses.dataclass(frozen=True)
class Point:
  """Holds one combination of values.

  Attributes:
    label: what its directory is called.
    command: that trains it.
  """

  label: str
  command: tuple[str, ...]

  @property
  def config_flags(self) -> list[str]:
    """Returns the words of the command by which `dpoq_jax.train` gets its config."""
    found: list[str] = []
    has_value = True
    for word in self.command:
      if re.match(r'--?(no)?config([.=]|$)', word):
        found.append(word)
        has_value = '=' in word
      else:
        # The value may be a word of its own.
        found += [] if has_value or word.startswith('-') else [word]
        has_value = True
    return found


def points(
  grid: Sequence[tuple[str, Sequence[str]]], workdir: str, command: Sequence[str]
) -> list[Point]:
  """Returns all combinations, the last flag of the grid varying fastest.

  Args:
    grid: flags, each with its values.
    workdir: directory of the points' own directories.
    command: what flags are put after.

  Raises:
    ValueError: if two combinations get the same name.
  """
  # A config file comes before what overrides its fields.
  grid = sorted(grid, key=lambda item: item[0] != 'config')
  names = [flag for flag, _ in grid]
  short = [name.rpartition('.')[2] for name in names]
  if len(set(short)) < len(short):
    short = names
  result: dict[str, Point] = {}
  for values in itertools.product(*(values for _, values in grid)):
    label = ','.join(f'{s}={_plain(value)}' for s, value in zip(short, values, strict=True))
    flags = [f'--{name}={value}' for name, value in zip(names, values, strict=True)]
    words = [word.replace('{name}', _slug(label)) for word in command]
    if label in result:
      raise ValueError(f'two points of the grid are called {label}.')
    result[label] = Point(label, (*words, *flags, f'--workdir={workdir}/{label}'))
  return list(result.values())


def _plain(value: str) -> str:
  """Turns a value into a part of a file name: a config file into its name and variant."""
  name = pathlib.PurePosixPath(value).name if '.py' in value else value
  return re.sub(r'[^A-Za-z0-9._=-]', '-', name.replace('.py', '', 1))


def _slug(label: str) -> str:
  """Shortens a label to what clusters allow: 40 lower-case letters, digits and dashes."""
  slug = re.sub(r'[^a-z0-9]+', '-', label.lower()).strip('-')
  if len(slug) <= 40 and slug[0].isalpha():
    return slug
  return f'p-{slug[:29].strip("-")}-{hashlib.sha256(label.encode()).hexdigest()[:8]}'


def check(point: Point) -> str | None:
  """Returns in one line what is wrong with a point's config; None if nothing is."""
  done = subprocess.run(
    [sys.executable, '-c', _CHECK, *point.config_flags], cwd=ROOT, capture_output=True, text=True
  )
  if done.returncode == 0:
    return None
  lines = done.stderr.strip().splitlines() or [f'exit status {done.returncode}']
  return lines[-1].removeprefix('error: ')


def run(todo: Sequence[Point]) -> int:
  """Runs the commands; returns the exit status of the sweep."""
  asked: list[signal.Signals] = []
  current: subprocess.Popen[bytes] | None = None

  def stop(number, frame):
    # A terminal that closes is no reason not to save.
    asked.append(signal.SIGTERM if number == signal.SIGHUP else signal.Signals(number))
    if current is not None and current.poll() is None:
      current.send_signal(asked[-1])

  for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    # What is ignored (nohup) stays so.
    if signal.getsignal(number) != signal.SIG_IGN:
      signal.signal(number, stop)
  failed = {}
  for point in todo:
    print(f'sweep: {point.label}', flush=True)
    # In a session of its own: Ctrl-C reaches it through this process, once.
    current = subprocess.Popen(point.command, start_new_session=True)
    if asked:
      current.send_signal(asked[0])
    status = current.wait()
    if asked:
      return 128 + asked[0]
    if status:
      failed[point.label] = status
  for label, status in failed.items():
    print(f'sweep: {label} failed with status {status}.', file=sys.stderr)
  return 1 if failed else 0


def main(arguments: Sequence[str]) -> int:
  """Runs the command; returns the exit status."""
  parser = argparse.ArgumentParser(
    usage=_USAGE,
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument('--workdir', required=True, help="directory of the points' own directories")
  parser.add_argument(
    '--grid',
    nargs='+',
    action='append',
    required=True,
    metavar=('FLAG', 'VALUE'),
    help='a flag, without dashes, and the values it takes',
  )
  parser.add_argument('--dry-run', action='store_true', help='print the commands')
  split = arguments.index('--') if '--' in arguments else len(arguments)
  options = parser.parse_args(arguments[:split])
  # As the commands take it, which a shell leaves alone after `--workdir=`.
  options.workdir = os.path.expanduser(options.workdir)  # noqa: PTH111
  command = arguments[split + 1 :]
  grid = [(flag, values) for flag, *values in options.grid]
  if not command:
    parser.error('give a command after --.')
  for flag, values in grid:
    if not values or flag.startswith('-'):
      parser.error(f'--grid {flag}: give the name of a flag, without dashes, and its values.')
  try:
    every = points(grid, options.workdir, command)
  except ValueError as error:
    parser.error(str(error))
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    reasons = list(pool.map(check, every))
  wrong = [f'{point.label}: {why}' for point, why in zip(every, reasons, strict=True) if why]
  if wrong:
    parser.error('; '.join(wrong))
  todo = [
    p for p in every if not (pathlib.Path(options.workdir) / p.label / 'summary.json').exists()
  ]
  print(f'sweep: {len(every)} points, {len(every) - len(todo)} of them done', flush=True)
  if options.dry_run:
    for point in todo:
      print(shlex.join(point.command))
    return 0
  return run(todo)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
