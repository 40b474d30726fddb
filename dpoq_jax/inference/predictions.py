"""Predicts a label for every input of a set, and writes the predictions as CSV or JSON lines."""

import collections
from collections.abc import Iterable, Iterator, Sequence
import csv
import dataclasses
import json
from typing import Any, TextIO

import numpy as np

from dpoq_jax.data.to_predict import Input
from dpoq_jax.inference import cascade as cascade_lib
from dpoq_jax.inference.operating_point import OperatingPoint


@dataclasses.dataclass(frozen=True)
class Prediction:
  """Holds what a cascade predicts of an input; one that could not be read has a name and an error.

  Attributes:
    input: name of the input.
    label: index of the most probable class.
    class_name: name of that class.
    probability: probability of that class.
    precision: bits of the precision the input left at.
    relative_cost: BitOPs, relative to the lowest precision.
    error: reason why the input could not be read.
    others: the next probable classes, each with its name and its probability.
  """

  input: str
  label: int | None = None
  class_name: str | None = None
  probability: float | None = None
  precision: int | None = None
  relative_cost: float | None = None
  error: str | None = None
  others: tuple[tuple[str, float], ...] = ()


# What a spreadsheet takes for a formula begins with one of these, perhaps after a line break.
_FORMULAS = ('=', '+', '-', '@', '\t', '\r', '\n')

COLUMNS = tuple(f.name for f in dataclasses.fields(Prediction) if f.name != 'others')


def predict(
  cascade: cascade_lib.Cascade,
  batches: Iterable[Sequence[Input]],
  class_names: Sequence[str],
  *,
  operating_point: OperatingPoint | None = None,
  max_precision: int | None = None,
  top: int = 1,
) -> Iterator[Prediction]:
  """Predicts inputs as a stream of batches.

  Args:
    cascade: the network with its operating point.
    batches: inputs, some of which may have no image.
    class_names: one per class.
    operating_point: as in `Cascade.stream`.
    max_precision: as in `Cascade.stream`.
    top: number of the most probable classes that are named.

  Returns:
    An iterator over one prediction per input, in the order of the inputs.

  Raises:
    ValueError: as `Cascade.stream` does, before any input is read.
  """
  # Inputs that were read and have no prediction yet, without their images: the cascade gives the
  # results of a batch several batches later.
  pending: collections.deque[Input] = collections.deque()

  def images() -> Iterator[np.ndarray]:
    for batch in batches:
      pending.extend(dataclasses.replace(each, image=None) for each in batch)
      if readable := [each.image for each in batch if each.image is not None]:
        yield np.stack(readable)

  # Called outside the generator below, so that a bad argument raises here.
  results = cascade.stream(images(), operating_point=operating_point, max_precision=max_precision)
  return _in_order(results, pending, class_names, top)


def _in_order(
  results: Iterable[cascade_lib.Result],
  pending: collections.deque[Input],
  class_names: Sequence[str],
  top: int,
) -> Iterator[Prediction]:
  """Yields a prediction per pending input; unreadable ones, of which no result comes, in between.

  Args:
    results: results of the readable inputs, in order; advancing it appends to `pending`.
    pending: all inputs, in order.
    class_names: one per class.
    top: number of classes that are named.
  """
  for result in results:
    # Stable, so that of equal probabilities the first comes first, as in the label.
    ranked = np.argsort(-result.probabilities, axis=-1, kind='stable')[:, 1:top]
    for i, label in enumerate(result.labels.tolist()):
      while pending[0].error is not None:
        yield _unreadable(pending.popleft())
      yield Prediction(
        input=pending.popleft().name,
        label=label,
        class_name=str(class_names[label]),
        probability=float(result.probabilities[i, label]),
        precision=int(result.precisions[i]),
        relative_cost=float(result.cost[i]),
        others=tuple((str(class_names[k]), float(result.probabilities[i, k])) for k in ranked[i]),
      )
  yield from map(_unreadable, pending)


def _unreadable(unread: Input) -> Prediction:
  return Prediction(unread.name, error=unread.error)


class CsvWriter:
  """Writes predictions as CSV, with or without a header; a field that is None stays empty.

  Every field is quoted, so that line breaks in names stay inside of them. Text that a spreadsheet
  would take for a formula, such as the file name `=1+1.png`, has an apostrophe before it. Numbers
  have four decimals.
  """

  def __init__(self, file: TextIO, *, header: bool = True, top: int = 1):
    """Writes the header, if one is wanted; each class beside the first has two columns."""
    self._writer, self._top = csv.writer(file, csv.unix_dialect), top
    more = [f'{name}_{k}' for k in range(2, top + 1) for name in ('class_name', 'probability')]
    if header:
      self._writer.writerow([*COLUMNS, *more])

  def write(self, prediction: Prediction) -> None:
    """Writes a prediction as a line."""
    own = [getattr(prediction, name) for name in COLUMNS]
    more = [field for other in prediction.others for field in other]
    more += [None] * (2 * (self._top - 1) - len(more))
    self._writer.writerow(map(_in_csv, [*own, *more]))


def _in_csv(field: Any) -> Any:
  """Returns a field as CSV has it: with an apostrophe before what would be taken for a formula."""
  if isinstance(field, float):
    return f'{field:.4f}'
  return f"'{field}" if isinstance(field, str) and field.startswith(_FORMULAS) else field


class JsonLinesWriter:
  """Writes predictions as JSON objects, one per line."""

  def __init__(self, file: TextIO, *, header: bool = True, top: int = 1):
    """Takes the arguments of `CsvWriter`; JSON lines have neither header nor columns."""
    del header, top
    self._file = file

  def write(self, prediction: Prediction) -> None:
    """Writes a prediction as a line."""
    self._file.write(json.dumps(dataclasses.asdict(prediction)) + '\n')


WRITERS = {'.csv': CsvWriter, '.jsonl': JsonLinesWriter}
"""Writers by the suffix of the file."""
