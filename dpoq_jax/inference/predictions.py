"""A row per input, however it went: what `predict` writes."""

import collections
from collections.abc import Iterable, Iterator, Sequence
import csv
import dataclasses
import json
from typing import TextIO

import numpy as np

from dpoq_jax.data.to_predict import Input
from dpoq_jax.inference import cascade as cascade_lib
from dpoq_jax.inference.operating_point import OperatingPoint


@dataclasses.dataclass(frozen=True)
class Prediction:
  """What a cascade says of an input; all but name and error are None if it could not be read.

  Attributes:
    input: its name.
    label: index of the most probable class.
    class_name: its name.
    probability: of that class.
    precision: bits of the precision it left at.
    relative_cost: BitOPs, relative to the lowest precision.
    error: why it could not be read.
  """

  input: str
  label: int | None = None
  class_name: str | None = None
  probability: float | None = None
  precision: int | None = None
  relative_cost: float | None = None
  error: str | None = None


COLUMNS = tuple(field.name for field in dataclasses.fields(Prediction))


def predict(
  cascade: cascade_lib.Cascade,
  batches: Iterable[Sequence[Input]],
  class_names: Sequence[str],
  *,
  operating_point: OperatingPoint | None = None,
  max_precision: int | None = None,
) -> Iterator[Prediction]:
  """Rows in the order of the inputs; undecided inputs are pooled over batches.

  Args:
    cascade: runs them.
    batches: of inputs, some of which may have no image.
    class_names: one per class.
    operating_point: as for `Cascade.__call__`.
    max_precision: as for `Cascade.__call__`.

  Raises:
    ValueError: as `Cascade.__call__`, before anything is read.
  """
  # Inputs whose rows are to come, without their images.
  waiting: collections.deque[Input] = collections.deque()

  def images() -> Iterator[np.ndarray]:
    for batch in batches:
      waiting.extend(dataclasses.replace(each, image=None) for each in batch)
      if readable := [each.image for each in batch if each.image is not None]:
        yield np.stack(readable)

  results = cascade.stream(images(), operating_point=operating_point, max_precision=max_precision)

  def unreadable() -> Iterator[Prediction]:
    while waiting and waiting[0].error is not None:
      each = waiting.popleft()
      yield Prediction(each.name, error=each.error)

  def rows() -> Iterator[Prediction]:
    for result in results:
      for row in _of_result(result, class_names):
        yield from unreadable()
        yield dataclasses.replace(row, input=waiting.popleft().name)
    yield from unreadable()

  return rows()


class CsvWriter:
  """Writes rows as CSV, with a header or without; what is None is left empty."""

  def __init__(self, file: TextIO, *, header: bool = True):
    self._writer = csv.writer(file, lineterminator='\n')
    if header:
      self._writer.writerow(COLUMNS)

  def write(self, row: Prediction) -> None:
    """Writes a row."""
    self._writer.writerow(dataclasses.astuple(row))


class JsonLinesWriter:
  """Writes rows as JSON objects, one a line; there is no header to it."""

  def __init__(self, file: TextIO, *, header: bool = True):
    del header
    self._file = file

  def write(self, row: Prediction) -> None:
    """Writes a row."""
    self._file.write(json.dumps(dataclasses.asdict(row)) + '\n')


WRITERS = {'.csv': CsvWriter, '.jsonl': JsonLinesWriter}
"""By the suffix of the file."""


def _of_result(result: cascade_lib.Result, class_names: Sequence[str]) -> Iterator[Prediction]:
  for i, label in enumerate(result.labels.tolist()):
    yield Prediction(
      input='',
      label=label,
      class_name=str(class_names[label]),
      probability=float(result.probabilities[i, label]),
      precision=int(result.precisions[i]),
      relative_cost=float(result.cost[i]),
    )
