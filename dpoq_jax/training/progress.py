"""What a person sees of a run: a progress bar or lines, evaluations, the table at the end."""

from collections.abc import Iterator, Mapping
import contextlib
import datetime
import time
from typing import Any

import rich.console
import rich.progress

# Where there is no terminal to draw a bar on, a line at most this often.
_SECONDS_BETWEEN_LINES = 30.0


class Progress:
  """Shows a run on a console: a bar on a terminal, lines elsewhere."""

  def __init__(self, console: rich.console.Console | None = None):
    """Shows on `console`, stdout by default."""
    self.console = console or rich.console.Console()
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
    self._last_line, self._first, self._total = 0.0, 0, 0
    self._started: float | None = None

  @contextlib.contextmanager
  def shown(self, step: int, total: int) -> Iterator[None]:
    """Shows the bar, at `step` of `total`, while a run goes on."""
    self._first, self._total, self._started = step, total, None
    self._bar.reset(self._task, total=total, completed=step, metrics='')
    with self._bar:
      yield

  def say(self, line: str) -> None:
    """Prints a line."""
    # Folded lines are no use to whoever reads a log.
    self.console.print(line, highlight=False, soft_wrap=True)

  def step(self, step: int) -> None:
    """Moves the bar."""
    self._bar.update(self._task, completed=step)
    if self._started is None:
      # The first step waited for its compilation, which says nothing of the others.
      self._first, self._started = step, time.monotonic()

  def training(self, row: Mapping[str, Any], speed: float) -> None:
    """Shows a row of training metrics; `speed` in examples/s."""
    metrics = f'loss {_per_precision(row["loss"], "{:.3f}")}, {speed:.0f} examples/s'
    self._bar.update(self._task, metrics=metrics)
    now = time.monotonic()
    if not self.console.is_terminal and now - self._last_line > _SECONDS_BETWEEN_LINES:
      self._last_line = now
      pace = (now - (self._started or now)) / max(row['step'] - self._first, 1)
      left = datetime.timedelta(seconds=round(pace * (self._total - row['step'])))
      self.say(f'step {row["step"]} of {self._total}: {metrics}, {left} left')

  def evaluation(self, row: Mapping[str, Any], epochs: int) -> None:
    """Prints a row of evaluation metrics."""
    losses = _per_precision(row['loss'], '{:.3f}')
    top1 = _per_precision(row['top1'], '{:.2%}')
    self.say(f'epoch {row["epoch"]:g} of {epochs}: test loss {losses}, top-1 {top1}')


def _per_precision(values: Mapping[int, float], form: str) -> str:
  return ' '.join(f'{bits}b {form.format(value)}' for bits, value in values.items())
