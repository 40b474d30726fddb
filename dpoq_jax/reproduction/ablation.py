"""Defines the tables of ours: what improves an onion, the recipe it led to, how far both are noise.

Their rows are data: what is trained, and which fields are set beside those of the config file. In
`ablation`, each lever is pulled alone, on top of an onion with the standardised quantizer. `recipe`
has the onions and what they are compared with, `noise` runs that should be the same.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import functools
import pathlib
from typing import Any, Literal

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
from dpoq_jax.reproduction.runs import Run

# What the onion of this ablation shows at the peak of its learning rate; not tuned.
_TRANSITION_RATE = 0.006

_BASE, _INDIVIDUAL = 'onion, standardised', 'individual networks, standardised'


@dataclasses.dataclass(frozen=True)
class Row:
  """Describes a row: one system at every precision.

  Attributes:
    label: name of the row.
    system: an onion, or what it is compared with.
    settings: fields set beside those of the config file, by name.
    plus: whether it is trained by the recipe.
    over: labels of the rows that it is compared with.
    rounding: whether its runs differ in how they round, in place of their seeds.
    with_float: whether individual networks include the float one.
    smoke: whether the ablation has it at scale `smoke`, too.
  """

  label: str
  system: Literal['onion', 'shared', 'individual']
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  plus: bool = False
  over: tuple[str, ...] = ()
  rounding: bool = False
  with_float: bool = False
  smoke: bool = False


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

# Fields by the last part of their names, which is one of a kind for all that are set here.
_FIELDS = {name.rpartition('.')[2]: name for name in config_lib.field_names()}


def _settings(**fields: Any) -> dict[str, Any]:
  """Returns values of fields by the whole names of those."""
  return {_FIELDS[name]: value for name, value in fields.items()}


def _lever(label: str, *, smoke: bool = False, **fields: Any) -> Row:
  """Returns the row of an onion in which one thing is changed."""
  settings = _settings(**{'weight_quantizer': 'standardised', **fields})
  return Row(label, 'onion', settings, over=(_BASE,), smoke=smoke)


def _recipe_but(label: str, base: config_lib.Config, **fields: Any) -> Row:
  """Returns the row of an onion that is trained by the recipe, but for these fields."""
  return Row(f'the recipe, {label}', 'onion', {**recipe.settings(base), **_settings(**fields)})


def _tuned(base: config_lib.Config) -> dict[str, Any]:
  """Returns what the recipe sets that is of use to other systems than onions, too."""
  of_recipe = recipe.settings(base)
  return {_FIELDS[name]: of_recipe[_FIELDS[name]] for name in ('weight_quantizer', 'learning_rate')}


def ablation_rows(base: config_lib.Config) -> list[Row]:
  """Returns the rows of the ablation: systems first, then levers, those first that decide.

  Args:
    base: config that they change.
  """
  standardised, tuned = _settings(weight_quantizer='standardised'), _tuned(base)
  least_error = _settings(weight_quantizer='standardised_least_error')
  rate, half = base.optimizer.learning_rate, base.epochs / 2
  return [
    Row('onion, DoReFa (the paper)', 'onion', over=(_BASE,), smoke=True),
    Row(_BASE, 'onion', standardised, smoke=True),
    Row('onion, the recipe', 'onion', plus=True, over=(_BASE,), smoke=True),
    Row('shared kernels, DoReFa', 'shared'),
    Row('shared kernels, standardised', 'shared', standardised),
    Row('shared kernels, quantizer of least error', 'shared', least_error),
    Row("shared kernels, the recipe's quantizer and rate", 'shared', tuned, smoke=True),
    Row('individual networks, DoReFa', 'individual'),
    Row(_INDIVIDUAL, 'individual', standardised, smoke=True),
    Row('individual networks, quantizer of least error', 'individual', least_error),
    Row("individual networks, the recipe's quantizer and rate", 'individual', tuned),
    Row(
      "individual networks, the recipe's quantizer and rate, companion",
      'individual',
      {**tuned, **_settings(companion_bits=(8,))},
    ),
    _recipe_but('quantizer of least error', base, weight_quantizer='standardised_least_error'),
    _recipe_but('standardised', base, weight_quantizer='standardised'),
    _recipe_but('companions of every ring', base, companion_rings=len(base.quantization.bits)),
    _lever('quantizer of least error', weight_quantizer='standardised_least_error'),
    _lever('companion of ring 1', companion_bits=(8,), companion_rings=1),
    _lever('companions of rings 1 and 2', companion_bits=(8,), companion_rings=2, smoke=True),
    _lever('peak learning rate doubled', learning_rate=2 * rate),
    _lever(
      'companions of every ring',
      companion_bits=(8,),
      companion_rings=len(base.quantization.bits),
    ),
    _lever('highest precision teaches, 0.5', distillation=0.5, teacher_start=half),
    _lever('highest precision teaches, 1.0', distillation=1.0, teacher_start=half),
    _lever(
      'companions of rings 1 and 2 teach, 0.5',
      companion_bits=(8,),
      companion_rings=2,
      distillation=0.5,
      teacher='companion',
      teacher_start=half,
    ),
    _lever('latents without decay', latent_weight_decay=0.0),
    _lever('decay of latents 5e-5', latent_weight_decay=5e-5),
    _lever('quantizer of a scale per channel', weight_quantizer='standardised_per_channel'),
    _lever('companion of ring 1 at 4 and 8 bits', companion_bits=(4, 8), companion_rings=1),
    _lever('companion of ring 1, weight 2', companion_bits=(8,), companion_weight=2.0),
    _lever('float companions of rings 1 and 2', companion_bits=(FLOAT,), companion_rings=2),
    _lever(
      'companions of rings 1 and 2, one drawn each step',
      companion_bits=(8,),
      companion_rings=2,
      draw_companion=True,
    ),
    _lever(f'transition rate {_TRANSITION_RATE}', transition_rate=_TRANSITION_RATE),
    _lever('gradient exponent 0.5', gradient_exponent=0.5),
    _lever('gradient exponent 2', gradient_exponent=2.0),
    _lever('precision shifts from 0.5', shift_init=0.5),
    _lever('clips from the first batch', calibrate_clips=True),
    _lever('logits of the path below added', sum_logits=True),
    Row(
      'individual networks, standardised, companion',
      'individual',
      {**standardised, **_settings(companion_bits=(8,))},
      over=(_INDIVIDUAL,),
    ),
    Row(
      'individual networks, standardised, taught by a float companion',
      'individual',
      {
        **standardised,
        **_settings(
          companion_bits=(FLOAT,), distillation=0.5, teacher='companion', teacher_start=half
        ),
      },
      over=(_INDIVIDUAL,),
    ),
  ]


def recipe_rows(base: config_lib.Config) -> list[Row]:
  """Returns the rows of the table of the recipe.

  Args:
    base: config that they change.
  """
  tuned = _tuned(base)
  others = [
    Row('shared kernels, DoReFa', 'shared'),
    Row("shared kernels, the recipe's quantizer and rate", 'shared', tuned),
    Row('individual networks, DoReFa', 'individual', with_float=True),
    Row("individual networks, the recipe's quantizer and rate", 'individual', tuned),
  ]
  over = tuple(row.label for row in others)
  return [
    Row('onion, DoReFa (the paper)', 'onion', over=over),
    Row('onion, the recipe', 'onion', plus=True, over=over),
    *others,
  ]


def noise_rows() -> list[Row]:
  """Returns the rows of the table of the noise: an onion over seeds, and over roundings of one."""
  return [
    Row('onion, DoReFa (the paper), seeds', 'onion', smoke=True),
    Row('onion, DoReFa (the paper), one seed, roundings', 'onion', rounding=True, smoke=True),
    Row('onion, the recipe, seeds', 'onion', plus=True),
    Row('onion, the recipe, one seed, roundings', 'onion', plus=True, rounding=True),
  ]


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
the rows and what is set in each in `dpoq_jax/reproduction/ablation.py`."""

_TEXTS = {
  'ablation': (
    'What improves an onion',
    f'Δ is the difference to `{_BASE}`, from which levers differ in one thing; of individual\n'
    f'networks, that to `{_INDIVIDUAL}`.',
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
