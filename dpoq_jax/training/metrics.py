"""Writes the log of a run, rows of metrics and TensorBoard events, and reads the rows back."""

from collections.abc import Mapping
import json
import os
import pathlib
from typing import Any

import tensorboardX

from dpoq_jax.runtime.files import write_whole

METRICS_FILE = 'metrics.jsonl'


class MetricsLog:
  """Appends rows of metrics to `metrics.jsonl` and to TensorBoard.

  Rows hold nothing that depends on the clock, so that a resumed run writes the same rows as an
  uninterrupted one; speeds go to TensorBoard alone.

  Attributes:
    evaluated: steps of the rows of evaluation that were there when the log was opened.
  """

  def __init__(self, workdir: pathlib.Path, step: int) -> None:
    """Opens the log of a run that goes on from `step`.

    Rows of later steps are dropped: the run writes them again when it comes to those steps.
    """
    path = workdir / METRICS_FILE
    rows = read_rows(workdir, up_to=step)
    self.evaluated = set(mean_top1(rows))
    write_whole(path, ''.join(json.dumps(row) + '\n' for row in rows))
    self._file = path.open('a')
    self._board = tensorboardX.SummaryWriter(
      str(workdir / 'tensorboard'), purge_step=step + 1, write_to_disk=True
    )

  def write(self, row: Mapping[str, Any], speed: float | None = None) -> None:
    """Appends a row.

    Args:
      row: JSON object of `step`, `kind` and metrics; a metric is a number or `{precision: number}`.
      speed: examples/s, for TensorBoard alone.
    """
    self._file.write(json.dumps(row) + '\n')
    self._file.flush()
    for name, leaf in row.items():
      values = leaf if isinstance(leaf, Mapping) else {'': leaf}
      for precision, value in values.items():
        if name not in ('step', 'kind') and value is not None:
          tag = f'{row["kind"]}/{name}' + (f'/{precision}_bits' if precision else '')
          self._board.add_scalar(tag, value, row['step'])
    if speed is not None:
      self._board.add_scalar('train/examples_per_second', speed, row['step'])

  def sync(self) -> None:
    """Forces all rows to disk, since a checkpoint must never be newer than its rows."""
    self._file.flush()
    os.fsync(self._file.fileno())

  def close(self) -> None:
    """Writes what is left and closes both files."""
    self.sync()
    self._file.close()
    self._board.close()


class ReadOnlyLog:
  """Stands in for `MetricsLog` in all processes but the first, which writes for them.

  Attributes:
    evaluated: steps of the rows of evaluation that were there when the log was opened.
  """

  def __init__(self, workdir: pathlib.Path, step: int) -> None:
    """Reads the log of a run that goes on from `step`."""
    self.evaluated = set(mean_top1(read_rows(workdir, up_to=step)))

  def write(self, row: Mapping[str, Any], speed: float | None = None) -> None:
    """Does nothing: the first process writes the row."""

  def sync(self) -> None:
    """Does nothing: the first process forces its rows to disk."""

  def close(self) -> None:
    """Does nothing: no file is open."""


def read_rows(workdir: pathlib.Path, up_to: float = float('inf')) -> list[dict[str, Any]]:
  """Returns the rows of a run up to a step; they end at a line that is only half written.

  A killed process leaves such a line.
  """
  path = workdir / METRICS_FILE
  if not path.is_file():
    return []
  rows = []
  for line in path.read_text('utf-8').splitlines():
    try:
      row = json.loads(line)
    except json.JSONDecodeError:
      break
    if row['step'] <= up_to:
      rows.append(row)
  return rows


def top1_at(rows: list[dict[str, Any]], step: int) -> dict[int, float] | None:
  """Returns the top-1 accuracy of each precision at a step; None if it was not evaluated."""
  for row in rows:
    if row['kind'] == 'eval' and row['step'] == step:
      return {int(precision): top1 for precision, top1 in row['top1'].items()}
  return None


def mean_top1(rows: list[dict[str, Any]]) -> dict[int, float]:
  """Returns the top-1 accuracy of every step that was evaluated, its mean over precisions."""
  evaluated = {row['step']: row['top1'].values() for row in rows if row['kind'] == 'eval'}
  return {step: sum(top1) / len(top1) for step, top1 in evaluated.items()}


def best_top1(rows: list[dict[str, Any]]) -> dict[int, float]:
  """Returns the highest top-1 accuracy of each precision; empty before the first evaluation."""
  best: dict[int, float] = {}
  for row in rows:
    if row['kind'] == 'eval':
      for precision, top1 in row['top1'].items():
        best[int(precision)] = max(top1, best.get(int(precision), 0.0))
  return best
