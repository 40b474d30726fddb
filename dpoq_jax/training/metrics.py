"""What a run writes down as it goes: rows of metrics, TensorBoard events."""

from collections.abc import Mapping
import json
import os
import pathlib
from typing import Any

import tensorboardX

from dpoq_jax.runtime.files import write_whole

METRICS_FILE = 'metrics.jsonl'


class MetricsLog:
  """Appends rows to `metrics.jsonl` and TensorBoard.

  Rows hold nothing that depends on the clock, so those of a resumed run equal those of an
  uninterrupted one; speeds go to TensorBoard alone.

  Attributes:
    evaluated: steps that had a row of evaluation when the log was opened.
  """

  def __init__(self, workdir: pathlib.Path, step: int):
    """Opens the log of a run that goes on from `step`: later rows are dropped, they come again."""
    self._path = workdir / METRICS_FILE
    rows = read_rows(workdir, up_to=step)
    self.evaluated = set(mean_top1(rows))
    write_whole(self._path, ''.join(json.dumps(row) + '\n' for row in rows))
    self._file = self._path.open('a')
    self._board = tensorboardX.SummaryWriter(
      str(workdir / 'tensorboard'), purge_step=step + 1, write_to_disk=True
    )

  def write(self, row: Mapping[str, Any], speed: float | None = None) -> None:
    """Appends a row.

    Args:
      row: JSON object with `step`, `kind` and metrics, numbers or `{precision: number}`.
      speed: examples/s, for TensorBoard.
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
    """Puts all rows on disk: a checkpoint must never be newer than its rows."""
    self._file.flush()
    os.fsync(self._file.fileno())

  def close(self) -> None:
    """Flushes and closes both files."""
    self.sync()
    self._file.close()
    self._board.close()


class UnwrittenLog:
  """What has the log of a run in a process that does not write it; see `MetricsLog`."""

  def __init__(self, workdir: pathlib.Path, step: int):
    """Looks at the log of a run that goes on from `step`."""
    self.evaluated = set(mean_top1(read_rows(workdir, up_to=step)))

  def write(self, row: Mapping[str, Any], speed: float | None = None) -> None:
    """Leaves it to the process that does."""

  def sync(self) -> None:
    """Leaves it to the process that does."""

  def close(self) -> None:
    """Has nothing open."""


def read_rows(workdir: pathlib.Path, up_to: float = float('inf')) -> list[dict[str, Any]]:
  """The rows of a run up to a step; a line that a killed process left half written ends them."""
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
  """Top-1 of each precision at a step; None if it was not evaluated."""
  for row in rows:
    if row['kind'] == 'eval' and row['step'] == step:
      return {int(precision): top1 for precision, top1 in row['top1'].items()}
  return None


def mean_top1(rows: list[dict[str, Any]]) -> dict[int, float]:
  """Mean top-1 over precisions of every step that was evaluated."""
  evaluated = {row['step']: row['top1'].values() for row in rows if row['kind'] == 'eval'}
  return {step: sum(top1) / len(top1) for step, top1 in evaluated.items()}


def best_top1(rows: list[dict[str, Any]]) -> dict[int, float]:
  """Highest evaluated top-1 of each precision over a run; empty before the first evaluation."""
  best: dict[int, float] = {}
  for row in rows:
    if row['kind'] == 'eval':
      for precision, top1 in row['top1'].items():
        best[int(precision)] = max(top1, best.get(int(precision), 0.0))
  return best
