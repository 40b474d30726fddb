"""Defines the rows of the tables of ours: what is trained, and which fields are set.

In `ablation_rows`, each lever is pulled alone, on top of an onion with the standardised quantizer.
`recipe_rows` has the onions and what they are compared with, `noise_rows` runs that should be the
same.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, Literal

from dpoq_jax import config as config_lib
from dpoq_jax.config import recipe
from dpoq_jax.reproduction.cells import FLOAT

# What the onion of this ablation shows at the peak of its learning rate; not tuned.
_TRANSITION_RATE = 0.006

BASE, INDIVIDUAL = 'onion, standardised', 'individual networks, standardised'
RECIPE = 'onion, the recipe'


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


# Fields by the last part of their names, which is one of a kind for all that are set here.
_FIELDS = {name.rpartition('.')[2]: name for name in config_lib.field_names()}


def _settings(**fields: Any) -> dict[str, Any]:
  """Returns values of fields by the whole names of those."""
  return {_FIELDS[name]: value for name, value in fields.items()}


def _lever(label: str, *, smoke: bool = False, **fields: Any) -> Row:
  """Returns the row of an onion in which one thing is changed."""
  settings = _settings(**{'weight_quantizer': 'standardised', **fields})
  return Row(label, 'onion', settings, over=(BASE,), smoke=smoke)


def _recipe_but(label: str, base: config_lib.Config, **fields: Any) -> Row:
  """Returns the row of an onion that is trained by the recipe, but for these fields."""
  settings = {**recipe.settings(base), **_settings(**fields)}
  return Row(f'the recipe, {label}', 'onion', settings, over=(RECIPE,))


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
    Row('onion, DoReFa (the paper)', 'onion', over=(BASE,), smoke=True),
    Row(BASE, 'onion', standardised, smoke=True),
    Row(RECIPE, 'onion', plus=True, over=(BASE,), smoke=True),
    Row('shared kernels, DoReFa', 'shared'),
    Row('shared kernels, standardised', 'shared', standardised),
    Row('shared kernels, quantizer of least error', 'shared', least_error),
    Row("shared kernels, the recipe's quantizer and rate", 'shared', tuned, smoke=True),
    Row('individual networks, DoReFa', 'individual'),
    Row(INDIVIDUAL, 'individual', standardised, smoke=True),
    Row('individual networks, quantizer of least error', 'individual', least_error),
    Row("individual networks, the recipe's quantizer and rate", 'individual', tuned),
    Row(
      "individual networks, the recipe's quantizer and rate, companion",
      'individual',
      {**tuned, **_settings(companion_bits=(8,))},
    ),
    _recipe_but('companions of rings 1 and 2', base, companion_rings=2),
    _recipe_but('companions at 4 and 8 bits', base, companion_bits=(4, 8)),
    _recipe_but('no gradient to lower paths', base, mode='separate'),
    _recipe_but('gradient exponent 2', base, gradient_exponent=2.0),
    _recipe_but('laterals at block ends', base, laterals='block_ends'),
    _recipe_but(
      'companions of rings 1 and 2, quantizer of least error',
      base,
      companion_rings=2,
      weight_quantizer='standardised_least_error',
    ),
    _recipe_but(
      'companions of rings 1 and 2, standardised',
      base,
      companion_rings=2,
      weight_quantizer='standardised',
    ),
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
      over=(INDIVIDUAL,),
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
      over=(INDIVIDUAL,),
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
    Row(RECIPE, 'onion', plus=True, over=over),
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
