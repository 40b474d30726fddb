"""Shows a run while it goes on: a progress bar or lines, and its evaluations."""

from collections.abc import Iterator, Mapping
import contextlib
import datetime
import pathlib
import shlex
import time
from typing import TYPE_CHECKING, Any

import rich.progress

from dpoq_jax import config as config_lib
from dpoq_jax.runtime.console import Console

# What is said before JAX is imported, which takes seconds, comes from here, too.
if TYPE_CHECKING:
  from dpoq_jax.training.experiment import Experiment

# How often a line is printed, at most, where there is no terminal to draw a bar on.
_SECONDS_BETWEEN_LINES = 30.0
# How long steps are timed, at least, before it is said how long all will take.
_SECONDS_TO_EXPECT = 2.0


class Progress:
  """Shows a run on a console: a bar if it is a terminal, else lines.

  Attributes:
    console: the console.
  """

  def __init__(self, console: Console | None = None) -> None:
    """Takes the console; None is stdout."""
    self.console = console or Console()
    self._bar = rich.progress.Progress(
      rich.progress.TextColumn('step'),
      rich.progress.MofNCompleteColumn(),
      rich.progress.BarColumn(),
      rich.progress.TimeRemainingColumn(),
      rich.progress.TextColumn('{task.fields[metrics]}'),
      console=self.console,
      disable=not self.console.is_terminal,
    )
    self._task = self._bar.add_task('', start=False, metrics='')
    self._last_line, self._first_step, self._total = 0.0, 0, 0
    self._first_step_ended: float | None = None
    self._is_expected = False

  @contextlib.contextmanager
  def shown(self, step: int, total: int) -> Iterator[None]:
    """Shows the bar, which starts at `step` of `total`, until the block ends."""
    self._first_step, self._total, self._first_step_ended = step, total, None
    self._is_expected = False
    self._bar.reset(self._task, total=total, completed=step, metrics='')
    with self._bar:
      yield

  def say(self, line: str) -> None:
    """Prints a line."""
    # Not folded at the width of a terminal, since lines may go to a log.
    self.console.print(line, highlight=False, soft_wrap=True)

  @contextlib.contextmanager
  def compiling(self) -> Iterator[None]:
    """Says that the training step is compiled, and how long that took once the block ends."""
    self.say('compiling the training step ...')
    started = time.monotonic()
    yield
    self.say(f'compiled in {time.monotonic() - started:.1f} s')

  def step(self, step: int) -> None:
    """Moves the bar to `step`; says how long the others will take, once that is known."""
    self._bar.update(self._task, completed=step)
    if self._first_step_ended is None:
      # The first step does not count for the pace, as it is slower than the others.
      self._first_step, self._first_step_ended = step, time.monotonic()
    elif not self._is_expected and time.monotonic() - self._first_step_ended > _SECONDS_TO_EXPECT:
      self._is_expected = True
      self.say(f'the {self._total - step} steps left take about {self._left(step)}')

  def training(self, row: Mapping[str, Any], speed: float) -> None:
    """Shows a row of training metrics and the speed, in examples/s."""
    metrics = f'loss {_per_precision(row["loss"], "{:.3f}")}, {speed:.0f} examples/s'
    self._bar.update(self._task, metrics=metrics)
    now = time.monotonic()
    if not self.console.is_terminal and now - self._last_line > _SECONDS_BETWEEN_LINES:
      self._last_line = now
      left = self._left(row['step'])
      self.say(f'step {row["step"]} of {self._total}: {metrics}, {left} left')

  def evaluation(self, row: Mapping[str, Any], epochs: int) -> None:
    """Prints a row of evaluation metrics; `epochs` are those of the whole run."""
    losses = _per_precision(row['loss'], '{:.3f}')
    top1 = _per_precision(row['top1'], '{:.2%}')
    self.say(f'epoch {row["epoch"]:g} of {epochs}: test loss {losses}, top-1 {top1}')

  def _left(self, step: int) -> datetime.timedelta:
    """Returns how long the steps after `step` take, at the pace so far."""
    now = time.monotonic()
    pace = (now - (self._first_step_ended or now)) / max(step - self._first_step, 1)
    return datetime.timedelta(seconds=round(pace * (self._total - step)))


def plan(config: config_lib.Config, workdir: pathlib.Path) -> str:
  """Returns what is to be trained, where: all that is known before data are loaded."""
  bits = ', '.join(map(str, config.quantization.bits))
  source = f'{config.data.name} in {config.data.dir}' if config.data.dir else config.data.name
  return f'training {config.model.label} at {bits} bits on {source}; the run is in {workdir}'


def header(experiment: 'Experiment') -> str:
  """Returns how much is to be trained, on what: known once data are loaded."""
  config, devices = experiment.config, experiment.mesh.devices.flatten()
  held_out = len(experiment.holdout_set)
  parts = [
    f'{len(experiment.train_set):,} training examples'
    + (f' ({held_out:,} more held out)' if held_out else ''),
    f'{len(experiment.test_set):,} test examples ({experiment.test_set.split})',
    f'{experiment.total_steps:,} steps of {config.data.batch_size} examples in '
    f'{config.epochs} epochs',
    f'{len(devices)} x {devices[0].device_kind}',
  ]
  return '; '.join(parts)


def ending(config: config_lib.Config, workdir: pathlib.Path) -> str:
  """Returns where a finished run is, and the commands to go on with, one a line."""
  quantization, flag = config.quantization, f'--workdir={shlex.quote(str(workdir))}'
  if quantization.sharing == 'rings' and len(quantization.bits) > 1:
    commands = [f'calibrate {flag}', f'predict {flag} IMAGES', f'report {flag}']
  else:
    # It has no exits to choose between.
    commands = [f'predict {flag} --precision={max(quantization.bits)} IMAGES']
  return '\n'.join([f'the run is in {workdir}; next:', *(f'dpoq {each}' for each in commands)])


def _per_precision(values: Mapping[int, float], form: str) -> str:
  """Writes one number for each precision: `2b 0.123 4b 0.101`."""
  return ' '.join(f'{bits}b {form.format(value)}' for bits, value in values.items())
