"""Decides what happens to corrupt records: each is named once and counted, another takes its place.

More of them than allowed are an error. In training, the place of a corrupt record in its batch goes
to the next intact one in the epoch's order, so that every batch is full; in evaluation the place is
masked out.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import warnings


class CorruptRecordsError(RuntimeError):
  """Says that too many records of a data set are corrupt, in one line for the user."""


@dataclasses.dataclass(frozen=True)
class CorruptRecord:
  """Describes a record that could not be read or decoded.

  Attributes:
    name: split, number and, where it could be read, file name of the record.
    reason: message of the exception that it caused.
  """

  name: str
  reason: str


class Tally:
  """Holds the corrupt records that a run has met, each counted once.

  Attributes:
    limit: most corrupt records that a run may skip.
    records: reason why each of them could not be read, by its name.
  """

  def __init__(self, limit: int) -> None:
    self.limit = limit
    self.records: dict[str, str] = {}

  def restore(self, records: Mapping[str, str]) -> None:
    """Takes over the corrupt records that a run had met before it was resumed."""
    self.records = dict(records)

  def note(self, record: CorruptRecord) -> None:
    """Counts a record and warns of it, unless it has been counted before.

    Raises:
      CorruptRecordsError: if it is one more than the limit.
    """
    if record.name in self.records:
      return
    self.records[record.name] = record.reason
    if len(self.records) > self.limit:
      raise CorruptRecordsError(
        f'{len(self.records)} corrupt records, more than config.data.max_corrupt={self.limit}, '
        f'the last one {record.name}: {record.reason}; repair the data set, or raise that number '
        'and resume.'
      )
    warnings.warn(f'skipping corrupt record {record.name}: {record.reason}', stacklevel=2)


def positions_to_try(position: int, length: int) -> Iterator[int]:
  """Yields the positions whose records may fill a place in a training batch, the best one first.

  The first is the place's own; the others replace it while all before them are corrupt. They follow
  it in the epoch's order, which starts anew at its end: for position 2 of 4, these are 2, 3, 0, 1.

  Args:
    position: position in the epoch's order that the place belongs to.
    length: number of records in the epoch's order.
  """
  for number in range(position, position + length):
    yield number % length
