"""Defines cells, the numbers that tables are made of, and the scales of the runs they come from.

A cell names a run and the place of a number in its summary.
"""

import collections
from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
import statistics
from typing import Any

from dpoq_jax.reproduction import runs
from dpoq_jax.reproduction.entries import Entry, entry
from dpoq_jax.reproduction.runs import Run

FLOAT = 32
MEAN = 'mean'


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


def measured(wanted: Sequence[Cell], stored: pathlib.Path, *, mean: bool = False) -> list[Entry]:
  """Returns an entry for each place of a table that has results, with all its seeds.

  Args:
    wanted: cells of the table.
    stored: directory of results.
    mean: whether rows have an entry more, the mean over their precisions: of each seed that has all
      of them, without the float network.
  """
  rows: dict[tuple[str, str, str], list[Cell]] = collections.defaultdict(list)
  for cell in wanted:
    rows[cell.table, cell.part, cell.system].append(cell)
  entries: list[Entry] = []
  for place, row in rows.items():
    of_bits: dict[int, list[float]] = collections.defaultdict(list)
    of_seed: dict[tuple[Any, ...], list[float]] = collections.defaultdict(list)
    for cell in row:
      summary = runs.read_summary(cell.run, stored)
      if summary is None:
        continue
      of_bits[cell.bits].append(cell.value(summary))
      if cell.bits != FLOAT:
        of_seed[cell.run.seed, *cell.run.settings].append(cell.value(summary))
    paper = {cell.bits: cell.paper for cell in row}
    entries += [entry(*place, column(b), values, paper[b]) for b, values in of_bits.items()]
    whole = len({cell.bits for cell in row} - {FLOAT})
    means = [statistics.mean(values) for values in of_seed.values() if len(values) == whole]
    if mean and len(means) > 0:
      entries.append(entry(*place, MEAN, means, None))
  return entries


def missing(wanted: Sequence[Cell], stored: pathlib.Path) -> dict[str, list[str]]:
  """Returns the rows that lack results, each with how many of its runs are done, for each part.

  Args:
    wanted: cells of one table.
    stored: directory of results.
  """
  found: dict[str, list[str]] = {cell.part: [] for cell in wanted}
  for part, system in dict.fromkeys((cell.part, cell.system) for cell in wanted):
    row = {cell.run for cell in wanted if (cell.part, cell.system) == (part, system)}
    done = sum(runs.read_summary(run, stored) is not None for run in row)
    if done < len(row):
      found[part].append(f'{system}: {done} of {len(row)} runs done')
  return found


def column(bits: int) -> str:
  """Returns the name of a precision's column."""
  return 'fp32' if bits == FLOAT else f'{bits} bits'


def bits_variant(bits: Sequence[int]) -> str:
  """Returns the part of a variant that sets the bit list."""
  return f'bits={"-".join(map(str, bits))}'


def individual_variant(
  bits: int, quantized: Sequence[int], *, float_activations: bool = True
) -> str:
  """Returns the variant that trains an individual network of one of the precisions.

  Args:
    bits: the precision; 32 is the float network.
    quantized: the precisions that are not float.
    float_activations: whether the activations of the float network are float, too. If not, the
      variant leaves them to what it is joined with.
  """
  if bits == FLOAT and float_activations:
    return f'system=individual,bits={FLOAT},activations={FLOAT}'
  if bits == max(quantized) and len(quantized) > 1:
    # Trains the same network, but its summary also has the accuracies of truncated weights.
    return f'system=truncated,{bits_variant(quantized)}'
  return f'system=individual,bits={bits}'


def top1(bits: int) -> tuple[str, ...]:
  """Returns the keys of a precision's accuracy in a summary."""
  return 'precisions', str(bits), 'top1'
