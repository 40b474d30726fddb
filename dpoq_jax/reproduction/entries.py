"""Defines an entry, one number of a table or figure as it was measured."""

from collections.abc import Iterable, Sequence
import dataclasses
import math
import statistics
from typing import Any

import scipy

# SciPy has no types.
_scipy: Any = scipy

# Digits after the point of what is kept; 10,000 test images need two, a mean of three seeds more.
DIGITS = 4

# Share of tables in which chance alone makes a system count as one with a broken run.
_BROKEN = 0.01


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
  """Returns the entry of the values of all seeds, in percent, to the digits that are kept of it.

  So a page says the same whether it is made of what was just measured or of the record.
  """
  spread = round(statistics.stdev(values), DIGITS) if len(values) > 1 else None
  mean = round(statistics.mean(values), DIGITS)
  return Entry(table, part, system, at, mean, spread, len(values), paper)


@dataclasses.dataclass(frozen=True)
class Noise:
  """Says how far apart runs lie that should be the same.

  Attributes:
    deviation: standard deviation of one run, in points.
    freedom: degrees of freedom that it is known by.
    broken: systems that it leaves out, since one of their runs has to have broken.
  """

  deviation: float
  freedom: int
  broken: frozenset[str] = frozenset()


def pooled_noise(entries: Iterable[Entry]) -> Noise | None:
  """Returns the noise of one run, pooled over all entries that have several.

  Two or three runs say little of their deviation; many entries of two or three say more. A system
  with a broken run, which all its precisions may show, is left out, as it would decide the
  deviation of all: one whose variance is so far above that of the others that chance puts one there
  in less than one of a hundred tables (an F test, as many as there are systems). Precisions of one
  run count in the deviation as if they were runs of their own.

  Returns:
    The noise; None if no entry has several runs.
  """
  systems: dict[str, list[Entry]] = {}
  for each in entries:
    if each.spread is not None:
      systems.setdefault(each.system, []).append(each)
  if not systems:
    return None
  broken: set[str] = set()
  while len(systems) > 1:
    worst = max(systems, key=lambda system: _pooled(systems[system])[0])
    deviation, _ = _pooled(systems[worst])
    others, freedom = _pooled([e for name, row in systems.items() if name != worst for e in row])
    # Accuracies on few examples may be the same in all other rows, which says nothing of this one.
    if others == 0:
      break
    own_freedom = max(each.seeds for each in systems[worst]) - 1
    chance = _scipy.special.fdtrc(own_freedom, freedom, (deviation / others) ** 2)
    if len(systems) * chance > _BROKEN:
      break
    broken.add(worst)
    del systems[worst]
  return Noise(*_pooled([each for row in systems.values() for each in row]), frozenset(broken))


def _pooled(entries: Sequence[Entry]) -> tuple[float, int]:
  """Returns the pooled deviation of entries of several runs, and its degrees of freedom."""
  freedom = sum(each.seeds - 1 for each in entries)
  squares = sum((each.seeds - 1) * (each.spread or 0.0) ** 2 for each in entries)
  return math.sqrt(squares / freedom), freedom


def within_noise(one: Entry, other: Entry, noise: Noise | None) -> bool:
  """Tells whether chance alone makes two entries differ as much in one of twenty comparisons.

  That is Student's t. A deviation of 1 degree of freedom takes a difference of 12.7 standard
  errors, one of many takes 2. A system with a broken run is as uncertain as its own runs are.

  Args:
    one: an entry.
    other: what it is compared with.
    noise: noise of one run; None, nothing known, is never enough.
  """
  if noise is None:
    return True
  variance, freedom = 0.0, noise.freedom
  for each in (one, other):
    deviation = noise.deviation
    if each.spread is not None and each.system in noise.broken:
      deviation, freedom = each.spread, min(freedom, each.seeds - 1)
    variance += deviation**2 / each.seeds
  return abs(one.ours - other.ours) <= _student_quantile(freedom) * math.sqrt(variance)


def _student_quantile(freedom: int) -> float:
  """Returns what Student's t exceeds, either way, in one of twenty draws."""
  return float(_scipy.special.stdtrit(freedom, 0.975))
