"""Shows a run while it goes on: a progress bar or lines, and its evaluations."""

from collections.abc import Iterator, Mapping
import contextlib
import datetime
import time
from typing import Any

import rich.progress

from dpoq_jax.runtime.console import Console

# How often a line is printed, at most, where there is no terminal to draw a bar on.
_SECONDS_BETWEEN_LINES = 30.0


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

  @contextlib.contextmanager
  def shown(self, step: int, total: int) -> Iterator[None]:
    """Shows the bar, which starts at `step` of `total`, until the block ends."""
    self._first_step, self._total, self._first_step_ended = step, total, None
    self._bar.reset(self._task, total=total, completed=step, metrics='')
    with self._bar:
      yield

  def say(self, line: str) -> None:
    """Prints a line."""
    # Not folded at the width of a terminal, since lines may go to a log.
    self.console.print(line, highlight=False, soft_wrap=True)

  def step(self, step: int) -> None:
    """Moves the bar to `step`."""
    self._bar.update(self._task, completed=step)
    if self._first_step_ended is None:
      # The first step does not count for the pace, as it is slower than the others.
      self._first_step, self._first_step_ended = step, time.monotonic()

  def training(self, row: Mapping[str, Any], speed: float) -> None:
    """Shows a row of training metrics and the speed, in examples/s."""
    metrics = f'loss {_per_precision(row["loss"], "{:.3f}")}, {speed:.0f} examples/s'
    self._bar.update(self._task, metrics=metrics)
    now = time.monotonic()
    if not self.console.is_terminal and now - self._last_line > _SECONDS_BETWEEN_LINES:
      self._last_line = now
      elapsed = now - (self._first_step_ended or now)
      pace = elapsed / max(row['step'] - self._first_step, 1)
      left = datetime.timedelta(seconds=round(pace * (self._total - row['step'])))
      self.say(f'step {row["step"]} of {self._total}: {metrics}, {left} left')

  def evaluation(self, row: Mapping[str, Any], epochs: int) -> None:
    """Prints a row of evaluation metrics; `epochs` are those of the whole run."""
    losses = _per_precision(row['loss'], '{:.3f}')
    top1 = _per_precision(row['top1'], '{:.2%}')
    self.say(f'epoch {row["epoch"]:g} of {epochs}: test loss {losses}, top-1 {top1}')


def _per_precision(values: Mapping[int, float], form: str) -> str:
  """Writes one number for each precision: `2b 0.123 4b 0.101`."""
  return ' '.join(f'{bits}b {form.format(value)}' for bits, value in values.items())
