"""Records that cannot be read or decoded: named once each, counted, too many are an error."""

from collections.abc import Mapping
import dataclasses
import warnings


@dataclasses.dataclass(frozen=True)
class CorruptRecord:
  """A record that could not be read or decoded.

  Attributes:
    name: split, number and, where it could be read, file name.
    reason: what was raised.
  """

  name: str
  reason: str


class CorruptRecordsError(RuntimeError):
  """Too many records of a data set are corrupt; the message is one line for the user."""


class Tally:
  """The corrupt records that a run has met.

  Attributes:
    limit: how many may be skipped.
    records: why each could not be read, by its name.
  """

  def __init__(self, limit: int):
    self.limit = limit
    self.records: dict[str, str] = {}

  def restore(self, records: Mapping[str, str]) -> None:
    """Takes over what a run had met before it was resumed."""
    self.records = dict(records)

  def note(self, name: str, reason: str) -> None:
    """Counts a record, unless it is known, and warns of it.

    Raises:
      CorruptRecordsError: if it is one more than may be skipped.
    """
    if name in self.records:
      return
    self.records[name] = reason
    if len(self.records) > self.limit:
      raise CorruptRecordsError(
        f'{len(self.records)} corrupt records, more than config.data.max_corrupt={self.limit}, '
        f'the last one {name}: {reason}; repair the data set, or raise that number and resume.'
      )
    warnings.warn(f'skipping corrupt record {name}: {reason}', stacklevel=2)
