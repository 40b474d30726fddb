"""What a person sees of a run: a progress bar, a line per evaluation, the table at the end."""

from collections.abc import Mapping
from typing import Any

import rich.console
import rich.progress


class Progress:
  """Shows a run on a console; the bar only where there is a terminal."""

  def __init__(self, console: rich.console.Console | None = None):
    self.console = console or rich.console.Console()
    self._bar = rich.progress.Progress(
      rich.progress.TextColumn('step'),
      rich.progress.MofNCompleteColumn(),
      rich.progress.BarColumn(),
      rich.progress.TimeRemainingColumn(),
      rich.progress.TextColumn('{task.fields[losses]}'),
      console=self.console,
      disable=not self.console.is_terminal,
    )
    self._task: rich.progress.TaskID | None = None

  def say(self, line: str) -> None:
    """Prints a line."""
    # Folded lines are no use to whoever reads a log.
    self.console.print(line, highlight=False, soft_wrap=True)

  def start(self, step: int, total: int) -> None:
    """Shows the bar, at `step` of `total`."""
    self._task = self._bar.add_task('', total=total, completed=step, losses='')
    self._bar.start()

  def training(self, row: Mapping[str, Any], speed: float) -> None:
    """Moves the bar to a row of training metrics; `speed` in examples/s."""
    if self._task is not None:
      losses = f'loss {_per_precision(row["loss"], "{:.3f}")}, {speed:.0f} examples/s'
      self._bar.update(self._task, completed=row['step'], losses=losses)

  def evaluation(self, row: Mapping[str, Any], epochs: int) -> None:
    """Prints a row of evaluation metrics."""
    top1 = _per_precision(row['top1'], '{:.2%}')
    self.say(
      f'epoch {row["epoch"]:g} of {epochs}: test loss '
      f'{_per_precision(row["loss"], "{:.3f}")}, top-1 {top1}'
    )

  def stop(self) -> None:
    """Takes the bar away."""
    self._bar.stop()


def _per_precision(values: Mapping[int, float], form: str) -> str:
  return ' '.join(f'{bits}b {form.format(value)}' for bits, value in values.items())
