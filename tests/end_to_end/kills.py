"""Ends a short digits run at random moments, resumes it, and compares it with one left alone.

    python -m tests.end_to_end.kills [--signal=KILL|TERM] [--count=N] [--seed=S]

Every run is ended once in each of its phases, at a step drawn at random, and started again each
time: what is drawn is the phase, so that a start, which takes longest, does not get most. The phase
is read from what the run has written so far, and the signal comes a random part of the time later
that the phase took when it was last seen. At last the run comes to its end; then the state of its
last checkpoint, `metrics.jsonl`, `summary.json`, `config.json` and `dataset.json` must equal those
of the run left alone. Prints how many signals fell into each phase and how many runs differed; exit
status 1 if any did.

Every start is a fork of this process, which has imported everything but has started no backend, and
finds its programs compiled, so that it costs a tenth of a process.
"""

import argparse
import collections
from collections.abc import Callable
import contextlib
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
STEPS, EVALUATED = 15, (5, 10, 15)
# Steps at which a phase may be: what is behind the step of each.
PHASES = {
  'start': range(STEPS + 1),
  'save': sorted({*range(2, STEPS, 2), *EVALUATED}),
  'evaluation': EVALUATED,
  'step': range(STEPS - 1),
  'summary': (STEPS,),
}


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


def import_all(programs: pathlib.Path) -> None:
  """Imports what a start would; none of it starts a backend, which no fork would survive.

  Args:
    programs: Directory for compiled programs; JAX takes the variables when it is imported.
  """
  os.environ |= runs.environment()
  os.environ['JAX_COMPILATION_CACHE_DIR'] = str(programs)
  # Also what compiles in no time: a start consists of many such programs.
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
  from jaxlib.mlir.dialects import mhlo  # noqa: F401
  from sklearn import datasets, model_selection  # noqa: F401

  from dpoq_jax import train as _  # noqa: F401
  from dpoq_jax.config import variants  # noqa: F401
  from dpoq_jax.training import dry_run, loop  # noqa: F401
  from tests import tiny_model  # noqa: F401
  from tests.end_to_end import test_resume  # noqa: F401


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


def phase(workdir: pathlib.Path, process: int, log: pathlib.Path) -> tuple[str, int]:
  """Says what a process that trains is at, and behind which step, by what it has written."""
  # It opens its file of events once it has dropped what another process left half-done.
  if not list((workdir / 'tensorboard').glob(f'events*.{process}')):
    return 'start', 0
  rows = runs.rows(workdir)
  step, kind = (rows[-1]['step'], rows[-1]['kind']) if rows else (0, '')
  if (step, kind) == (STEPS, 'eval'):
    return 'summary', step
  checkpoints = [path.name for path in (workdir / 'checkpoints').glob('*')]
  # Its checkpoint may still be written while the network is evaluated.
  begun = {name.partition('.')[0] for name in checkpoints}
  if kind == 'train' and step in EVALUATED and str(step) in begun:
    return 'evaluation', step
  if any('tmp' in name for name in checkpoints):
    return 'save', step
  return ('step' if 'compiled in' in log.read_text() else 'start'), step


class Watch:
  """Holds how long every phase took when it was last seen."""

  def __init__(self, workdir: pathlib.Path, log: pathlib.Path) -> None:
    self.workdir, self.log = workdir, log
    # Of a phase that was not seen yet, a guess.
    self.seconds = dict.fromkeys(PHASES, 0.1)

  def start(self) -> int:
    """Starts the run, or resumes it; returns the process."""
    self.log.write_bytes(b'')
    return fork(lambda: train(self.workdir), self.log)

  def follow(self, process: int, until: str = 'end', step: int = 0) -> int | None:
    """Waits for a phase behind a step, or the process to end, whose status it returns."""
    before, since = 'start', time.monotonic()
    while True:
      now, reached = phase(self.workdir, process, self.log)
      if now != before:
        self.seconds[before] = time.monotonic() - since
        before, since = now, time.monotonic()
      if now == until and (reached >= step or now == 'start'):
        return None
      if (status := finish(process, timeout=0.002)) is not None:
        self.seconds[now] = time.monotonic() - since
        return status


def plan(rng: random.Random) -> list[tuple[str, int]]:
  """Draws a step for every phase; returns both in the order in which a run comes to them."""
  drawn = [(rng.choice(steps), place, name) for place, (name, steps) in enumerate(PHASES.items())]
  return [(name, step) for step, _, name in sorted(drawn)]


def main() -> int:
  """Ends and resumes runs; returns the exit status."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--signal', choices=('KILL', 'TERM'), default='KILL')
  parser.add_argument('--count', type=int, default=1000)
  parser.add_argument('--seed', type=int, default=0)
  given = parser.parse_args()
  number = signal.Signals[f'SIG{given.signal}']
  allowed = {0, -number} | ({143} if number == signal.SIGTERM else set())

  rng, fell, differing, compared = random.Random(given.seed), collections.Counter(), 0, 0
  begun = time.monotonic()
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    log, alone, workdir = folder / 'log', folder / 'alone', folder / 'run'
    import_all(folder / 'programs')

    def must(status: int | None, action: str) -> None:
      if status != 0:
        raise SystemExit(f'{action} ended with status {status}:\n{log.read_text()[-3000:]}')

    must(finish(fork(lambda: train(folder / 'warm'), log)), 'the first run')
    watch = Watch(alone, log)
    must(watch.follow(watch.start()), 'the run left alone')
    watch.workdir = workdir
    while fell.total() < given.count:
      for target, step in plan(rng)[: given.count - fell.total()]:
        process = watch.start()
        status = watch.follow(process, target, step)
        if status is None:
          status = finish(process, rng.uniform(0, watch.seconds[target]))
        if status is None:
          fell[phase(workdir, process, log)[0]] += 1
          os.kill(process, number)
          status = finish(process)
        if status not in allowed:
          must(status, 'a run')
        if (workdir / 'summary.json').exists():
          break
      must(finish(watch.start()), 'a run')
      compared += 1
      if finish(fork(lambda: same(workdir, alone), log)) != 0:
        differing += 1
        print(log.read_text()[-3000:])
      shutil.rmtree(workdir)
  ended = ', '.join(f'{fell[name]} in {name}' for name in PHASES)
  print(
    f'SIG{given.signal}: {fell.total()} ({ended}); {compared} runs compared, {differing} differ; '
    f'{time.monotonic() - begun:.0f} s, {sum(os.times()[:4]):.0f} s of CPU'
  )
  return int(differing > 0)


if __name__ == '__main__':
  sys.exit(main())
