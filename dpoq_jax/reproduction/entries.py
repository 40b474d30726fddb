"""Defines an entry, one number of a table or figure as it was measured."""

from collections.abc import Sequence
import dataclasses
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
