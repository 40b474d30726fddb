"""Training runs of the tables: what each is called, whether its result is there, running it.

Every run is a process of its own, so that one that fails leaves the others alone. What it comes to,
`summary.json` with the `config.json` it belongs to, is kept apart from its checkpoints: a few
kilobytes that go into version control, by which the next start knows what is done.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import json
import os
import pathlib
import re
import runpy
import shlex
import signal
import subprocess
import sys
from typing import Any

from dpoq_jax import config as config_lib
from dpoq_jax.runtime import files
from dpoq_jax.runtime import workdir as workdir_lib

ROOT = pathlib.Path(__file__).parents[2]
SUMMARY = 'summary.json'

_WAIT = 0.5  # Seconds between looks at whether to stop.


class Stopped(Exception):
  """The user stopped it; the run in progress has saved."""


@dataclasses.dataclass(frozen=True)
class Run:
  """One training run.

  Attributes:
    config: file in `configs/`.
    variant: of it, see `variants.apply`.
    seed: of the run.
  """

  config: str
  variant: str
  seed: int

  @property
  def name(self) -> str:
    """What its directory is called."""
    parts = [self.config.removesuffix('.py'), *self.variant.split(','), f'seed={self.seed}']
    return re.sub(r'[^A-Za-z0-9.-]', '_', '-'.join(filter(None, parts)))

  def flags(self, data_dir: str | None) -> list[str]:
    """Of the command that trains it."""
    colon = ':' if self.variant else ''
    flags = [f'--config=configs/{self.config}{colon}{self.variant}', f'--config.seed={self.seed}']
    if data_dir:
      # The command is run elsewhere.
      flags.append(f'--config.data.dir={pathlib.Path(data_dir).expanduser().absolute()}')
    return flags

  def expected(self) -> config_lib.Config:
    """Its config.

    Raises:
      ConfigError: if the variant is none.
      FileNotFoundError: if there are no config files, outside a checkout of the repository.
    """
    config = _get_config(self.config)(self.variant)
    config.seed = self.seed
    return config_lib.validate(config)


@functools.cache
def _get_config(name: str) -> Callable[[str], Any]:
  path = ROOT / 'configs' / name
  if not path.is_file():
    raise FileNotFoundError(f'no {path}: reproduce runs in a checkout of the repository.')
  # Config files import one another.
  sys.path.insert(0, str(ROOT))
  try:
    return runpy.run_path(str(path))['get_config']
  finally:
    sys.path.remove(str(ROOT))


def read_summary(run: Run, stored: pathlib.Path) -> dict[str, Any] | None:
  """The result of a run; None if there is none, one of another config, or none that can be read.

  Args:
    run: which.
    stored: directory of results.
  """
  path = stored / run.name / SUMMARY
  if not path.is_file():
    return None
  expected = run.expected()
  try:
    kept = workdir_lib.read_config(path.parent)
    if config_lib.differences(kept, expected, apart=workdir_lib.MAY_CHANGE_ON_RESUME):
      return None
    return json.loads(path.read_text('utf-8'))
  # Of a version whose configs had other fields, or cut short.
  except (ValueError, FileNotFoundError):
    return None


@dataclasses.dataclass(frozen=True)
class Trainer:
  """Trains what is missing.

  Attributes:
    stored: directory of results.
    workdir: directory of the runs' own directories.
    data_dir: where data sets are; None is TFDS's default.
    environment: added to that of the training processes.
    say: shows a line.
    stopping: whether the user wants to stop.
  """

  stored: pathlib.Path
  workdir: pathlib.Path
  data_dir: str | None
  environment: Mapping[str, str]
  say: Callable[[str], None]
  stopping: Callable[[], bool]

  def train(self, runs: Sequence[Run], *, checkpoints: bool = False) -> dict[Run, str]:
    """Trains those of `runs` whose result is not there, one after the other.

    Args:
      runs: wanted; those met twice are trained once.
      checkpoints: whether a result is not enough, and the trained network itself is wanted.

    Returns:
      Why each of those that failed did, one line each.

    Raises:
      Stopped: if `stopping`.
      BlockingIOError: if another process trains them.
      OSError: if results cannot be kept.
    """
    # Before hours of training that would come to nothing.
    self.stored.mkdir(parents=True, exist_ok=True)
    with files.lock(self.workdir, f'another process reproduces in {self.workdir}.'):
      return self._train_all(self.missing(runs, checkpoints=checkpoints))

  def missing(self, runs: Sequence[Run], *, checkpoints: bool = False) -> list[Run]:
    """Those of `runs` whose result is not there, in the order to train them; says how many."""
    # One seed of everything before a second of anything.
    wanted = sorted(dict.fromkeys(runs), key=lambda run: run.seed)
    missing = [run for run in wanted if not self._is_done(run, checkpoints)]
    self.say(f'{len(wanted)} runs, {len(wanted) - len(missing)} of them done')
    return missing

  def _train_all(self, missing: Sequence[Run]) -> dict[Run, str]:
    failures = {}
    for number, run in enumerate(missing, start=1):
      self.say(f'{number} of {len(missing)}: {run.name}')
      if (reason := self._train(run)) is not None:
        failures[run] = reason
        self.say(f'  failed: {reason}')
        continue
      summary = self._keep(run)
      top1 = ', '.join(f'{b} bits {100 * p["top1"]:.2f}' for b, p in summary['precisions'].items())
      self.say(f'  {top1}')
    return failures

  def _is_done(self, run: Run, checkpoints: bool) -> bool:
    if read_summary(run, self.stored) is None:
      return False
    return not checkpoints or read_summary(run, self.workdir) is not None

  def _train(self, run: Run) -> str | None:
    """Trains a run, from where it was left; why it failed, if it did."""
    folder = self.workdir / run.name
    log = self.workdir / f'{run.name}.log'
    self.workdir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, '-m', 'dpoq_jax.train', *run.flags(self.data_dir)]
    command.append(f'--workdir={folder.absolute()}')
    with log.open('a') as output:
      print('$', shlex.join(command), file=output, flush=True)
      process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **self.environment},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        # Interrupts reach it through this process, once.
        start_new_session=True,
      )
      try:
        while process.poll() is None:
          if self.stopping():
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise Stopped(f'stopped at {run.name}; the same command goes on from there.')
          try:
            process.wait(_WAIT)
          except subprocess.TimeoutExpired:
            continue
      finally:
        if process.poll() is None:
          process.kill()
          process.wait()
    if process.returncode == 0:
      return None
    lines = log.read_text(errors='replace').strip().splitlines()
    return f'exit status {process.returncode}: {lines[-1]} ({log})'

  def _keep(self, run: Run) -> dict[str, Any]:
    """Copies what a finished run came to."""
    source, target = self.workdir / run.name, self.stored / run.name
    target.mkdir(parents=True, exist_ok=True)
    # The result last: it is what says that the run is done.
    for name in (workdir_lib.CONFIG_FILE, SUMMARY):
      content = json.loads((source / name).read_text('utf-8'))
      if name == workdir_lib.CONFIG_FILE:
        # Where the data was is nobody else's concern.
        del content['data']['dir']
      files.write_whole(target / name, json.dumps(content, indent=2) + '\n')
    return json.loads((target / SUMMARY).read_text('utf-8'))
