"""Defines cells, the numbers that tables are made of, and the scales of the runs they come from.

A cell names a run and the place of a number in its summary.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

from dpoq_jax.reproduction import results, runs
from dpoq_jax.reproduction.runs import Run

FLOAT = 32


@dataclasses.dataclass(frozen=True)
class Scale:
  """Describes how large the runs are, and how many.

  Attributes:
    name: name of the scale, as the command is given it.
    seeds: number of seeds of individual networks and of the paper's own system.
    other_seeds: number of seeds of all other systems.
    environment: environment variables of the training processes.
  """

  name: str
  seeds: int
  other_seeds: int
  environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


SCALES = {
  # At this scale compiling takes longer than training, so it is done without optimisation.
  'smoke': Scale('smoke', 1, 1, {'XLA_FLAGS': '--xla_backend_optimization_level=0'}),
  'cpu': Scale('cpu', 2, 1),
  'long': Scale('long', 2, 1),
  'paper': Scale('paper', 3, 3),
}


@dataclasses.dataclass(frozen=True)
class Cell:
  """Describes one number of a table.

  Attributes:
    table: name of the table.
    part: comparison in the table, named by network, data and activations.
    system: system that is trained: the row.
    bits: precision: the column; 32 is a float network.
    run: training run of the system.
    read: keys that lead from the summary of the run to the number, a fraction.
    paper: number of the paper, in percent; None if it has none.
  """

  table: str
  part: str
  system: str
  bits: int
  run: Run
  read: tuple[str, ...]
  paper: float | None = None

  def value(self, summary: Mapping[str, Any]) -> float:
    """Returns the number, in percent."""
    found: Any = summary
    for key in self.read:
      found = found[key]
    return 100 * float(found)


def measured(wanted: Sequence[Cell], stored: pathlib.Path) -> list[results.Entry]:
  """Returns an entry for each place of a table that has results, with all its seeds.

  Args:
    wanted: cells of the table.
    stored: directory of results.
  """
  values: dict[tuple[str, str, str, int], list[float]] = {}
  paper: dict[tuple[str, str, str, int], float | None] = {}
  for cell in wanted:
    if (summary := runs.read_summary(cell.run, stored)) is not None:
      place = (cell.table, cell.part, cell.system, cell.bits)
      values.setdefault(place, []).append(cell.value(summary))
      paper[place] = cell.paper
  return [
    results.entry(*place[:3], column(place[3]), found, paper[place])
    for place, found in values.items()
  ]


def column(bits: int) -> str:
  """Returns the name of a precision's column."""
  return 'fp32' if bits == FLOAT else f'{bits} bits'


def bits_variant(bits: Sequence[int]) -> str:
  """Returns the part of a variant that sets the bit list."""
  return f'bits={"-".join(map(str, bits))}'


def individual_variant(bits: int, quantized: Sequence[int]) -> str:
  """Returns the variant that trains an individual network of one of the precisions."""
  if bits == FLOAT:
    return f'system=individual,bits={FLOAT},activations={FLOAT}'
  if bits == max(quantized) and len(quantized) > 1:
    # Trains the same network, but its summary also has the accuracies of truncated weights.
    return f'system=truncated,{bits_variant(quantized)}'
  return f'system=individual,bits={bits}'


def top1(bits: int) -> tuple[str, ...]:
  """Returns the keys of a precision's accuracy in a summary."""
  return 'precisions', str(bits), 'top1'
