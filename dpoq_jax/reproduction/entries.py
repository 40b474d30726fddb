"""Defines an entry, one number of a table or figure as it was measured."""

from collections.abc import Iterable, Sequence
import dataclasses
import math
import statistics


@dataclasses.dataclass(frozen=True)
class Entry:
  """Holds one number of a table or figure.

  Attributes:
    table: name of the table or figure.
    part: comparison in it, named by network, data and activations.
    system: system that was measured: the row.
    at: precision or cost at which it was measured: the column.
    ours: mean over seeds, in percent; where row or column is one of bits or costs, in those.
    spread: standard deviation over seeds; None if there is one seed.
    seeds: number of seeds.
    paper: number of the paper, in percent; None if it has none.
  """

  table: str
  part: str
  system: str
  at: str
  ours: float
  spread: float | None
  seeds: int
  paper: float | None

  @property
  def difference(self) -> float | None:
    """Returns our number minus the paper's; None if the paper has none."""
    return None if self.paper is None else self.ours - self.paper


def entry(
  table: str, part: str, system: str, at: str, values: Sequence[float], paper: float | None
) -> Entry:
  """Returns the entry of the values of all seeds, in percent."""
  spread = statistics.stdev(values) if len(values) > 1 else None
  return Entry(table, part, system, at, statistics.mean(values), spread, len(values), paper)


def pooled_deviation(entries: Iterable[Entry]) -> float | None:
  """Returns the standard deviation of one run, pooled over all entries that have several.

  Two or three runs say little of their deviation; many entries of two or three say enough.

  Returns:
    The deviation, in points; None if no entry has several runs.
  """
  known = [(each.seeds - 1, each.spread) for each in entries if each.spread is not None]
  if not known:
    return None
  return math.sqrt(sum(n * spread**2 for n, spread in known) / sum(n for n, _ in known))


def within_noise(one: Entry, other: Entry, deviation: float | None) -> bool:
  """Tells whether two entries differ by less than two standard errors of their difference.

  Args:
    one: an entry.
    other: what it is compared with.
    deviation: standard deviation of one run, in points; None, nothing known, is never enough.
  """
  if deviation is None:
    return True
  error = deviation * math.sqrt(1 / one.seeds + 1 / other.seeds)
  return abs(one.ours - other.ours) < 2 * error
