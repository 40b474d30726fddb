"""Trains the runs that the tables are made of, and keeps their results.

Every run is a process of its own, so that a failure of one leaves the others alone. Its result,
`summary.json` and the `config.json` that it belongs to, is kept apart from its checkpoints: a few
kilobytes that go into version control, and that tell the next start what is done.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import contextlib
import dataclasses
import importlib
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
from typing import Any, NoReturn

from dpoq_jax import config as config_lib
from dpoq_jax.reproduction import summaries
from dpoq_jax.runtime import files
from dpoq_jax.runtime import workdir as workdir_lib
from dpoq_jax.training import splits

SUMMARY = 'summary.json'

# Between two looks at whether the user wants to stop.
_SECONDS_TO_WAIT = 0.5
# JAX takes most of an accelerator's memory otherwise, and leaves none to the others.
_SHARED_DEVICE = {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}


class Stopped(Exception):
  """Says that the user stopped the reproduction, and that the runs in progress have saved."""


@dataclasses.dataclass(frozen=True)
class Run:
  """Describes a training run.

  Attributes:
    config: name of its config file, one of `configs.names`.
    variant: variant of that config; see `variants.apply`.
    seed: seed of the run.
    settings: fields that are set beside those, each as its name (`optimizer.learning_rate`) and its
      value; the last part of its name, and its value, are in the name of the run.
  """

  config: str
  variant: str
  seed: int
  settings: tuple[tuple[str, Any], ...] = ()

  @property
  def name(self) -> str:
    """Returns the name of its directory."""
    settings = [f'{field.rpartition(".")[2]}={_short(value)}' for field, value in self.settings]
    parts = [self.config, *self.variant.split(','), *settings, f'seed={self.seed}']
    return re.sub(r'[^A-Za-z0-9.-]', '_', '-'.join(filter(None, parts)))

  def flags(self, data_dir: str | None) -> list[str]:
    """Returns the flags of the command that trains it, all but the directory."""
    colon = ':' if self.variant else ''
    flags = [f'--config={self.config}{colon}{self.variant}', f'--config.seed={self.seed}']
    flags += [f'--config.{field}={value}' for field, value in self.settings]
    if data_dir:
      flags.append(f'--config.data.dir={pathlib.Path(data_dir).expanduser().absolute()}')
    return flags

  def expected_config(self) -> config_lib.Config:
    """Returns the config that its file, variant, seed and settings describe.

    Raises:
      ConfigError: if there is no such config.
    """
    file = importlib.import_module(f'dpoq_jax.configs.{self.config}')
    config = file.get_config(self.variant)
    config.seed = self.seed
    config.update_from_flattened_dict(dict(self.settings))
    return config_lib.validate(config)


def _short(value: Any) -> str:
  """Writes the value of a field as part of a file name; a tuple as variants do, `4-8`."""
  return '-'.join(map(str, value)) if isinstance(value, tuple) else str(value)


def read_summary(run: Run, stored: pathlib.Path) -> dict[str, Any] | None:
  """Reads the result of a run.

  Args:
    run: run whose result is wanted.
    stored: directory of results.

  Returns:
    Its summary; None if there is none, it belongs to another config, lacks one of its precisions,
    or cannot be read.
  """
  path = stored / run.name / SUMMARY
  if not path.is_file():
    return None
  expected = run.expected_config()
  try:
    kept = workdir_lib.read_config(path.parent)
    if config_lib.differences(kept, expected, apart=workdir_lib.MAY_CHANGE_ON_RESUME):
      return None
    summary = summaries.read(path)
  # Written by a version whose configs had other fields, or cut short.
  except (ValueError, FileNotFoundError):
    return None
  whole = set(map(str, expected.quantization.bits)) <= summary['precisions'].keys()
  return summary if whole else None


@dataclasses.dataclass(frozen=True)
class Trainer:
  """Trains the runs whose results are missing.

  Attributes:
    stored: directory of results.
    workdir: directory that the directories of runs are in.
    data_dir: directory of data sets; None is TFDS's own.
    environment: environment variables of the training processes, beside those of this one.
    say: function that shows a line.
    stopping: function that tells whether the user wants to stop.
    jobs: number of trainings at a time.
  """

  stored: pathlib.Path
  workdir: pathlib.Path
  data_dir: str | None
  environment: Mapping[str, str]
  say: Callable[[str], None]
  stopping: Callable[[], bool]
  jobs: int = 1

  def train(self, runs: Sequence[Run], *, checkpoints: bool = False) -> dict[Run, str]:
    """Trains those of `runs` whose results are missing, `jobs` of them at a time.

    Args:
      runs: runs to have results of; one that is named twice is trained once.
      checkpoints: whether the trained network itself is needed as well.

    Returns:
      The runs that failed, each with the reason in one line.

    Raises:
      Stopped: if the user wants to stop.
      BlockingIOError: if another process trains them.
      FileNotFoundError, ValueError: if data that they need are not there; none is trained then.
      OSError: if results cannot be kept.
    """
    # Made first, so that a directory that cannot be made is not found out after hours of training.
    self.stored.mkdir(parents=True, exist_ok=True)
    with files.lock(self.workdir, f'another process reproduces in {self.workdir}.'):
      missing = self.missing(runs, checkpoints=checkpoints)
      self._check_data(missing)
      return self._train_all(missing)

  def missing(self, runs: Sequence[Run], *, checkpoints: bool = False) -> list[Run]:
    """Returns the runs whose results are missing, in the order to train them."""
    # The first seeds of all runs come before the second seed of any.
    wanted = sorted(dict.fromkeys(runs), key=lambda run: run.seed)
    return [run for run in wanted if not self._is_done(run, checkpoints)]

  def counted(self, runs: Sequence[Run], missing: Sequence[Run]) -> str:
    """Returns how many runs are done, and how many of these here, in words.

    Results may have come with the repository.
    """
    done = set(runs) - set(missing)
    here = sum(read_summary(run, self.workdir) is not None for run in done)
    return (
      f'{len(set(runs))} runs, {len(done)} of them done: results kept in {self.stored}, {here} of '
      f'them trained in {self.workdir}'
    )

  def _check_data(self, missing: Iterable[Run]) -> None:
    """Checks that the data of runs are there, once for all, as each would fail by itself."""
    found = [run.expected_config().data for run in missing]
    for data in {each.name: each for each in found}.values():
      splits.check(data.model_copy(update={'dir': self.data_dir or data.dir}))

  def _train_all(self, missing: Sequence[Run]) -> dict[Run, str]:
    """Trains runs, keeps their results, and returns those that failed, with the reasons."""
    failures: dict[Run, str] = {}
    waiting = list(enumerate(missing, start=1))
    running: dict[Run, subprocess.Popen[bytes]] = {}
    try:
      while waiting or running:
        if self.stopping():
          self._stop(running)
        while waiting and len(running) < self.jobs:
          number, run = waiting.pop(0)
          self.say(f'{number} of {len(missing)}: {run.name}')
          running[run] = self._start(run)
        with contextlib.suppress(subprocess.TimeoutExpired):
          next(iter(running.values())).wait(_SECONDS_TO_WAIT)
        for run in [each for each, process in running.items() if process.poll() is not None]:
          reason = self._conclude(run, running.pop(run).returncode)
          if reason is not None:
            failures[run] = reason
    finally:
      for process in running.values():
        process.kill()
        process.wait()
    return failures

  def _stop(self, running: Mapping[Run, subprocess.Popen[bytes]]) -> NoReturn:
    """Stops runs, which save, and says so."""
    for process in running.values():
      process.send_signal(signal.SIGTERM)
    for process in running.values():
      process.wait()
    names = ', '.join(run.name for run in running)
    at = f'stopped at {names}' if names else 'stopped'
    raise Stopped(f'{at}; the same command goes on from there.')

  def _is_done(self, run: Run, checkpoints: bool) -> bool:
    """Tells whether a run has a result, and its trained network where that is needed."""
    if read_summary(run, self.stored) is None:
      return False
    return not checkpoints or read_summary(run, self.workdir) is not None

  def _start(self, run: Run) -> subprocess.Popen[bytes]:
    """Starts to train a run, from where it was left."""
    folder = self.workdir / run.name
    command = [sys.executable, '-m', 'dpoq_jax.train', *run.flags(self.data_dir)]
    command.append(f'--workdir={folder.absolute()}')
    with self._log(run).open('a') as output:
      print('$', shlex.join(command), file=output, flush=True)
      return subprocess.Popen(
        command,
        env={**(_SHARED_DEVICE if self.jobs > 1 else {}), **os.environ, **self.environment},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        # In a session of its own, so that Ctrl-C reaches it once, through this process.
        start_new_session=True,
      )

  def _conclude(self, run: Run, status: int) -> str | None:
    """Keeps the result of a run that has ended, or returns the reason why it failed; says which."""
    if status != 0:
      lines = self._log(run).read_text(errors='replace').strip().splitlines()
      reason = f'exit status {status}: {lines[-1]} ({self._log(run)})'
      self.say(f'  {run.name} failed: {reason}')
      return reason
    precisions = self._keep(run)['precisions']
    top1 = ', '.join(f'{b} bits {100 * p["top1"]:.2f}' for b, p in precisions.items())
    self.say(f'  {run.name}: {top1}')
    return None

  def _log(self, run: Run) -> pathlib.Path:
    """Returns the path of what a training prints."""
    return self.workdir / f'{run.name}.log'

  def _keep(self, run: Run) -> dict[str, Any]:
    """Copies the result of a finished run to where results are kept, and returns it."""
    source, target = self.workdir / run.name, self.stored / run.name
    target.mkdir(parents=True, exist_ok=True)
    # The summary last, since a run counts as done once it is there.
    for name in (workdir_lib.CONFIG_FILE, SUMMARY):
      content = json.loads(files.read_regular(source / name))
      if name == workdir_lib.CONFIG_FILE:
        # A place on this machine, which is of no use in version control.
        del content['data']['dir']
      files.write_whole(target / name, json.dumps(content, indent=2) + '\n')
    return json.loads((target / SUMMARY).read_text('utf-8'))
