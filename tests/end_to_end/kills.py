"""Ends a short digits run at random moments, resumes it, and compares it with one left alone.

    python -m tests.end_to_end.kills [--signal=KILL|TERM] [--count=N] [--seed=S]

Every start of the run is a fork of this process, which has imported everything but has started no
backend, so that a start costs a tenth of a process. It is ended after a random part of the time
that a whole run takes, and started again until it comes to its end; then the state of its last
checkpoint, `metrics.jsonl`, `summary.json`, `config.json` and `dataset.json` must equal those of
the run left alone. Prints how often it was ended, at what, and how many runs differed; exit status
1 if any did.
"""

import argparse
import collections
from collections.abc import Callable
import contextlib
import json
import os
import pathlib
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from unittest import mock

from tests.end_to_end import runs

FILES = ('metrics.jsonl', 'config.json', 'dataset.json')
# Five steps an epoch, with a save after every second and a row after each.
FLAGS = (
  '--config.checkpoint_every=2',
  '--config.epochs=3',
  '--config.data.batch_size=287',
  '--config.log_every=1',
)


def fork(action: Callable[[], int], log: pathlib.Path) -> int:
  """Runs `action`, which returns an exit status, in a fork, its output in a file."""
  if process := os.fork():
    return process
  status = 70
  try:
    with log.open('w') as file:
      os.dup2(file.fileno(), 1)
      os.dup2(file.fileno(), 2)
    status = action()
  except BaseException:
    traceback.print_exc()
  finally:
    with contextlib.suppress(OSError):
      sys.stdout.flush()
      sys.stderr.flush()
    os._exit(status)


def train(workdir: pathlib.Path) -> int:
  """Trains to the end, as the command does; returns the exit status."""
  from dpoq_jax import train as command
  from dpoq_jax.cli.run import run

  argv = ['train', f'--workdir={workdir}', *runs.flags(*FLAGS, bits='2')]
  try:
    with mock.patch.object(sys, 'argv', argv):
      run(command.define_flags, command.main)
  except SystemExit as ended:
    return int(ended.code or 0)


def same(workdir: pathlib.Path, other: pathlib.Path) -> int:
  """Compares two finished runs, arrays and files; returns an exit status."""
  import chex

  from tests.end_to_end import test_resume

  chex.assert_trees_all_equal(test_resume.last_state(workdir), test_resume.last_state(other))
  for name in FILES:
    assert (workdir / name).read_bytes() == (other / name).read_bytes(), name
  assert runs.results(workdir) == runs.results(other)
  return 0


def finish(process: int, timeout: float | None = None) -> int | None:
  """Waits for a process to end; returns its status, below 0 that of a signal, or None."""
  descriptor = os.pidfd_open(process)
  try:
    if not select.select([descriptor], [], [], timeout)[0]:
      return None
  finally:
    os.close(descriptor)
  return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def progress(workdir: pathlib.Path) -> tuple[list[str], str]:
  """What a run has written so far: names of checkpoints, half-written too, and its last rows."""
  names = sorted(path.name for path in (workdir / 'checkpoints').glob('*'))
  log = workdir / 'metrics.jsonl'
  return names, log.read_text()[-1000:] if log.exists() else ''


def phase(workdir: pathlib.Path, before: tuple[list[str], str]) -> str:
  """Says what a run that was ended had been at, by what it left and what was there `before`."""
  after = names, log = progress(workdir)
  if (workdir / 'summary.json').exists():
    return 'end'
  if any('tmp' in name for name in names) and names != before[0]:
    return 'save'
  if after == before or not log:
    return 'start'
  with contextlib.suppress(ValueError):
    last = json.loads(log.splitlines()[-1])
    if last['step'] == 15:
      return 'last evaluation' if last['kind'] == 'train' else 'summary'
  return 'step or evaluation'


def main() -> int:
  """Ends and resumes runs; returns the exit status."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--signal', choices=('KILL', 'TERM'), default='KILL')
  parser.add_argument('--count', type=int, default=1000)
  parser.add_argument('--seed', type=int, default=0)
  given = parser.parse_args()
  number = signal.Signals[f'SIG{given.signal}']
  allowed = {0, -number} | ({143} if number == signal.SIGTERM else set())

  os.environ |= runs.environment()
  # Also what compiles in no time: a start consists of many such programs.
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
  # What a start would import; none of it starts a backend, which no fork would survive.
  from sklearn import datasets  # noqa: F401

  from dpoq_jax import train as _  # noqa: F401
  from dpoq_jax.training import dry_run, loop  # noqa: F401
  from tests.end_to_end import test_resume  # noqa: F401

  rng, phases, differing, compared = random.Random(given.seed), collections.Counter(), 0, 0
  begun = time.monotonic()
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    log, alone, workdir = folder / 'log', folder / 'alone', folder / 'run'

    def must(status: int | None, action: str) -> None:
      if status != 0:
        raise SystemExit(f'{action} ended with status {status}:\n{log.read_text()[-3000:]}')

    must(finish(fork(lambda: train(folder / 'warm'), log)), 'the first run')
    started = time.monotonic()
    must(finish(fork(lambda: train(alone), log)), 'the run left alone')
    seconds = time.monotonic() - started
    while phases.total() < given.count:
      before = progress(workdir)
      process = fork(lambda: train(workdir), log)
      status = finish(process, rng.uniform(0, 1.2 * seconds))
      if status is None:
        os.kill(process, number)
        phases[phase(workdir, before)] += 1
        status = finish(process)
      if status not in allowed:
        must(status, 'a run')
      if (workdir / 'summary.json').exists() or phases.total() == given.count:
        must(finish(fork(lambda: train(workdir), log)), 'a run')
        compared += 1
        if finish(fork(lambda: same(workdir, alone), log)) != 0:
          differing += 1
          print(log.read_text()[-3000:])
        shutil.rmtree(workdir)
  ended = ', '.join(f'{count} at {what}' for what, count in phases.most_common())
  print(
    f'SIG{given.signal}: {phases.total()} ({ended}); {compared} runs compared, {differing} differ; '
    f'{time.monotonic() - begun:.0f} s, {sum(os.times()[:4]):.0f} s of CPU'
  )
  return int(differing > 0)


if __name__ == '__main__':
  sys.exit(main())
