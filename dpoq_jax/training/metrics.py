"""Writes the log of a run, rows of metrics and TensorBoard events, and reads the rows back."""

from collections.abc import Mapping
import contextlib
import itertools
import json
import os
import pathlib
import time
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field
from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

from dpoq_jax.runtime.files import read_regular, write_whole

METRICS_FILE = 'metrics.jsonl'

# Its classes are made as it is imported, unseen by type checkers.
_proto: Any = event_pb2

_Bits = Annotated[str, Field(pattern='^([1-9]|[12][0-9]|3[0-2])$')]
_Losses = dict[_Bits, float]
_Accuracies = dict[_Bits, Annotated[float, Field(ge=0, le=1)]]
# No count reaches what 64 bits hold.
_Number = Annotated[int, Field(ge=0, lt=2**63)]


class MetricsError(ValueError):
  """Says, in one line for the user, which line of `metrics.jsonl` is damaged."""


class _Row(pydantic.BaseModel):
  """Describes what every row of metrics holds."""

  model_config = pydantic.ConfigDict(extra='forbid', strict=True)

  step: _Number
  epoch: float
  loss: _Losses


class _TrainingRow(_Row):
  """Describes a row of training; it has no loss if every step since the last was skipped."""

  kind: Literal['train']
  learning_rate: float
  top1: _Accuracies
  skipped: _Number


class _EvaluationRow(_Row):
  """Describes a row of an evaluation; earlier versions did not write the ensembles."""

  kind: Literal['eval']
  top1: Annotated[_Accuracies, Field(min_length=1)]
  ensemble_top1: _Accuracies = {}


_ROW: pydantic.TypeAdapter[_TrainingRow | _EvaluationRow] = pydantic.TypeAdapter(
  Annotated[_TrainingRow | _EvaluationRow, Field(discriminator='kind')]
)


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
    self._file = path.open('a', encoding='utf-8')
    self._board = _Board(workdir / 'tensorboard', step + 1)

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
          self._board.write(tag, value, row['step'])
    if speed is not None:
      self._board.write('train/examples_per_second', speed, row['step'])
    if row['kind'] == 'eval':
      self._board.flush()

  def sync(self) -> None:
    """Forces all rows to disk, since a checkpoint must never be newer than its rows."""
    self._file.flush()
    os.fsync(self._file.fileno())
    self._board.flush()

  def close(self) -> None:
    """Writes what is left and closes both files."""
    try:
      self.sync()
    finally:
      # What cannot be written cannot be closed either.
      with contextlib.suppress(OSError):
        self._file.close()
      self._board.close()


class _Board:
  """Writes scalars for TensorBoard.

  In the caller's thread: tensorboardX's own writer has one of its own, which ends when the disk is
  full, and whoever has more for it then waits for ever.
  """

  def __init__(self, folder: pathlib.Path, first_step: int) -> None:
    """Opens a file of events, before which those from `first_step` on count no more."""
    folder.mkdir(exist_ok=True)
    prefix = str(folder.absolute() / 'events')
    # Resumed within a second, a run would write over the file it left.
    self._file = event_file_writer.EventsWriter(prefix, f'.{os.getpid()}')
    log = _proto.SessionLog(status=_proto.SessionLog.START)
    self._write(_proto.Event(step=first_step, session_log=log))

  def write(self, tag: str, value: float, step: int) -> None:
    """Writes a number."""
    self._write(_proto.Event(step=step, summary=summary.scalar(tag, value)))

  def flush(self) -> None:
    """Forces what was written to disk."""
    self._file.flush()

  def close(self) -> None:
    """Closes the file."""
    self._file.close()

  def _write(self, event: Any) -> None:
    event.wall_time = time.time()
    self._file.write_event(event)


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
  """Returns the rows of a run up to a step.

  A killed process, or a full disk, leaves a last line that is only half written, which does not
  count. Nothing else is passed over, since a resumed run writes what was read here in place of the
  file.

  Raises:
    MetricsError: if any other line is no row of metrics, or not in its place.
    ValueError: if it is no regular file.
  """
  path = workdir / METRICS_FILE
  if not path.exists():
    return []
  # Of bytes, since only a line feed ends a line.
  *whole, torn = read_regular(path).split(b'\n')
  rows = [_read_row(path, number, line) for number, line in enumerate(whole, start=1)]
  # A row is written with its line feed, and may have lost that alone.
  with contextlib.suppress(MetricsError):
    rows.append(_read_row(path, len(rows) + 1, torn))
  for number, (row, following) in enumerate(itertools.pairwise(rows), start=2):
    # A step is evaluated after its row of training.
    if (row['step'], row['kind'] == 'eval') >= (following['step'], following['kind'] == 'eval'):
      raise _damaged(path, number, f'step {following["step"]} comes after step {row["step"]}')
  return [row for row in rows if row['step'] <= up_to]


def _read_row(path: pathlib.Path, number: int, line: bytes) -> dict[str, Any]:
  """Returns the row of a line of `metrics.jsonl`."""
  try:
    row = json.loads(line)
    _ROW.validate_json(line)
  except pydantic.ValidationError as error:
    first = error.errors()[0]
    field = '.'.join(map(str, first['loc'][1:])) or 'row'
    raise _damaged(path, number, f'{field}: {first["msg"]}') from None
  except (ValueError, RecursionError) as error:
    raise _damaged(path, number, f'no JSON: {error}') from None
  return row


def _damaged(path: pathlib.Path, number: int, reason: str) -> MetricsError:
  """Returns the error of a line that is no row of metrics."""
  return MetricsError(
    f'{path}, line {number}, is no row of metrics ({reason}): put back the file as it was, or '
    'remove the line.'
  )


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
