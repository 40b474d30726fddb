"""Defines the tables of ours: what improves an onion, the recipe it led to, how far both are noise.

Their rows are data (`reproduction.rows`); here are the networks and sets that they are trained on.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import functools
import pathlib
from typing import Any

from dpoq_jax import config as config_lib
from dpoq_jax.config import recipe
from dpoq_jax.reproduction import pages
from dpoq_jax.reproduction.cells import (
  FLOAT,
  MEAN,
  Cell,
  Scale,
  bits_variant,
  column,
  individual_variant,
  missing,
  top1,
)
from dpoq_jax.reproduction.rows import (
  BASE,
  INDIVIDUAL,
  RECIPE,
  Row,
  ablation_rows,
  noise_rows,
  recipe_rows,
)
from dpoq_jax.reproduction.runs import Run


@dataclasses.dataclass(frozen=True)
class _Part:
  """Describes what all runs of a table share that are of one network.

  Attributes:
    name: name of network and data.
    config: config file.
    plus: config file that has the recipe, too; None if the recipe is set by flags.
    bits: bit list.
    seeds: number of seeds.
    variant: variant of the config file, beside that of the row.
    settings: fields set in all runs.
  """

  name: str
  config: str
  plus: str | None
  bits: tuple[int, ...]
  seeds: int
  variant: str = ''
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def base(self) -> config_lib.Config:
    """Returns the config that rows change."""
    variant = ','.join(filter(None, [bits_variant(self.bits), self.variant]))
    return Run(self.config, variant, 0, tuple(self.settings.items())).expected_config()

  def cells(self, table: str, row: Row) -> Iterator[Cell]:
    """Yields the cells of a row."""
    config, settings = self.config, {**self.settings, **row.settings}
    if row.plus and self.plus is not None:
      config = self.plus
    elif row.plus:
      settings |= recipe.settings(self.base())
    name = f'{self.name}, activations of {self.base().quantization.activation_bits} bits'
    for b in [*self.bits, FLOAT] if row.with_float else self.bits:
      variant = ','.join(filter(None, [self._system(row, b), self.variant]))
      for number in range(self.seeds):
        seed, more = number, {}
        if row.rounding:
          # The first is the run of seed 0, which other rows have, too.
          seed, more = 0, {'rounding_seed': number} if number else {}
        run = Run(config, variant, seed, tuple((settings | more).items()))
        yield Cell(table, name, row.label, b, run, top1(b))

  def _system(self, row: Row, bits: int) -> str:
    """Returns the variant that trains the system of a row."""
    match row.system:
      case 'onion':
        return f'system=scaled,merge=psbn,{bits_variant(self.bits)}'
      case 'shared':
        return f'system=shared,{bits_variant(self.bits)}'
      case 'individual' if row.settings:
        return f'system=individual,bits={bits}'
      case 'individual':
        # The run that Table 1 has.
        return individual_variant(bits, self.bits)


_CPU, _CPU_PLUS = 'cifar10_resnet8_cpu', 'cifar10_resnet8_cpu_plus'
_LONGER = {'model.depth': 20, 'epochs': 20}
_PARTS = {
  'smoke': [_Part('ResNet-8, digits', 'digits_resnet8', None, (2, 4), 1, 'smoke')],
  'cpu': [_Part('ResNet-8, CIFAR-10, 4 epochs', _CPU, _CPU_PLUS, (2, 4, 8), 3)],
  'long': [
    _Part('ResNet-8, CIFAR-10, 30 epochs', _CPU, _CPU_PLUS, (2, 4, 8), 2, '', {'epochs': 30}),
    _Part('ResNet-20, CIFAR-10, 20 epochs', _CPU, _CPU_PLUS, (2, 4, 8), 1, '', _LONGER),
  ],
  'paper': [
    _Part('ResNet-20, CIFAR-10', 'cifar10_resnet20', 'cifar10_resnet20_plus', (2, 4, 8), 3)
  ],
}


_DIGITS = _Part('ResNet-8, digits', 'digits_resnet8', None, (2, 4, 8, 16), 5)


def _parts(table: str, scale: Scale) -> list[_Part]:
  """Returns the networks and data of a table at a scale."""
  digits = [_DIGITS] if (table, scale.name) == ('noise', 'cpu') else []
  return [*digits, *_PARTS[scale.name]]


def _rows(table: str, scale: Scale, part: _Part) -> list[Row]:
  """Returns the rows of a table at a scale, for one network."""
  if table == 'recipe':
    return recipe_rows(part.base())
  rows = noise_rows() if table == 'noise' else ablation_rows(part.base())
  return [row for row in rows if row.smoke or scale.name != 'smoke']


def _cells(table: str, scale: Scale) -> Iterator[Cell]:
  """Yields the cells of a table at a scale."""
  for part in _parts(table, scale):
    for row in _rows(table, scale, part):
      yield from part.cells(table, row)


def comparison(table: str, scale: Scale, stored: pathlib.Path) -> pages.Comparison:
  """Returns what the page of a table says beside its numbers.

  Args:
    table: one of `TABLES`.
    scale: scale of its runs.
    stored: directory of results.
  """
  cells = list(_cells(table, scale))
  bits = sorted({cell.bits for cell in cells})
  columns = [column(b) for b in bits if b != FLOAT] + [MEAN]
  title, differences = _TEXTS[table]
  return pages.Comparison(
    title=title,
    introduction=_INTRODUCTION.format(
      differences=differences, table=table, scale=scale.name, record=f'{table.upper()}.csv'
    ),
    columns=[*columns, column(FLOAT)] if FLOAT in bits else columns,
    over={row.label: row.over for row in _rows(table, scale, _PARTS[scale.name][0])},
    missing=missing(cells, stored),
  )


_INTRODUCTION = """\
Top-1 accuracy in percent on the test set, last epoch, of the frozen integers. Every convolution is
quantized, the first one, too. Mean of the runs ± their standard deviation (number of runs), where
there are several; `mean` is over the precisions, of seeds that have them all.
{differences}

Written by `dpoq reproduce {table} --scale={scale}`; the numbers are in `{record}`,
the rows and what is set in each in `dpoq_jax/reproduction/rows.py`."""

_TEXTS = {
  'ablation': (
    'What improves an onion',
    f'Δ is the difference to `{BASE}`, from which levers differ in one thing; of individual\n'
    f'networks, that to `{INDIVIDUAL}`; of `the recipe, ...`, that to `{RECIPE}`.',
  ),
  'recipe': ('Onions against what they are compared with', 'Differences are below each table.'),
  'noise': (
    'How far an accuracy can be had again',
    'Runs of one row differ in their seed alone, or have one seed and differ in nothing but\n'
    'rounding: `rounding_seed` moves every first parameter to a float next to it, which is what\n'
    'another machine or compiler does to a sum.',
  ),
}

TABLES: Mapping[str, Callable[[Scale], Iterator[Cell]]] = {
  table: functools.partial(_cells, table) for table in _TEXTS
}
