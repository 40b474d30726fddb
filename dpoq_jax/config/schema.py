"""Defines the typed schema of a training run, and checks configs against it.

`get_config` makes the `ConfigDict` that config files change and flags override; `validate` turns it
into a frozen `Config`.
"""

from collections.abc import Callable, Mapping, Set
import re
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import ml_collections
import pydantic
from pydantic import Field

from dpoq_jax import onion
from dpoq_jax.config import names
from dpoq_jax.config.bounds import MOST_EPOCHS, Count, Natural, Section, Seed, Text
from dpoq_jax.config.sections import Data, Model, Objective, Optimizer, Quantization

# Fields that the files of earlier versions do not have.
_ADDED = frozenset({
  'rounding_seed', 'steps_per_dispatch', 'data.dir', 'data.memory_gb', 'data.train_split',
  'quantization.calibrate_clips', 'quantization.laterals', 'quantization.sum_logits',
  'objective.gradient_exponent', 'objective.companion_bits', 'objective.companion_rings',
  'objective.companion_weight', 'objective.draw_companion', 'objective.distillation',
  'objective.teacher', 'objective.teacher_start', 'optimizer.latent_weight_decay',
  'optimizer.transition_rate',
})  # fmt: skip


class ConfigError(ValueError):
  """Says, in one line for the user, why a config cannot be run."""


class Config(Section):
  """Describes a training run.

  Attributes:
    seed: seed of initialisation, data order and augmentation.
    rounding_seed: moves every first parameter to a float next to it, up or down as this seed draws;
      0: leaves them. Two runs that differ in it alone show what rounding does to an accuracy.
    epochs: passes over the training examples.
    log_every: steps between rows of training metrics.
    eval_every: epochs between evaluations; the last epoch is always evaluated.
    checkpoint_every: steps between checkpoints; None saves after every epoch.
    steps_per_dispatch: most steps that run without the host, on devices that hold the training set;
      None is 50 on accelerators, 1 on CPU. A streamed set takes 1. May change on resume.
    max_skipped_steps: steps that may be skipped as not finite before the run stops.
    init_from: directory of a run to start from: one whose bits begin this bit list, whose paths are
      kept as they are, or one of a float network, from which all paths start; or an artifact, by
      its folder or `pretrained:NAME`, from which all are trained on, also on other classes.
    batch_statistics: examples that are normalised together: the whole batch (`global`), or the part
      of each device (`per_device`); docs/scaling.md says what each costs and when to choose it.
  """

  seed: Seed = 0
  rounding_seed: Seed = 0
  epochs: Annotated[int, Field(ge=1, le=MOST_EPOCHS)] = 30
  data: Data = Data()
  model: Model = Model()
  quantization: Quantization = Quantization()
  objective: Objective = Objective()
  optimizer: Optimizer = Optimizer(schedule='cosine', learning_rate=0.05, warmup_epochs=1.0)
  log_every: Count = 20
  eval_every: Count = 2
  checkpoint_every: Count | None = None
  steps_per_dispatch: Count | None = None
  max_skipped_steps: Natural = 20
  init_from: Text = None
  batch_statistics: Literal['global', 'per_device'] = 'global'

  def with_data_in(self, data_dir: str | None) -> 'Config':
    """Returns the config with its data set in another directory; None changes nothing."""
    if not data_dir:
      return self
    return self.model_copy(update={'data': self.data.model_copy(update={'dir': data_dir})})

  @pydantic.model_validator(mode='after')
  def _fields_agree(self) -> 'Config':
    weights, warmup = self.objective.loss_weights, self.optimizer.warmup_epochs
    bits, is_onion = self.quantization.bits, self.quantization.sharing == 'rings'
    if not is_onion and self.objective.mode != 'joint':
      raise ValueError(
        f'objective.mode={self.objective.mode}: precisions that share whole kernels hand nothing '
        'up whose gradient could be scaled or stopped; give joint'
      )
    if not is_onion and self.init_from:
      raise ValueError(f'init_from={self.init_from}: only an onion starts from another run')
    if not is_onion and self.quantization.sum_logits:
      raise ValueError('quantization.sum_logits=True: only an onion has logits below to add')
    objective, optimizer = self.objective, self.optimizer
    companions, is_float = objective.companion_bits, bits == (onion.MAX_BITS,)
    if companions and (not is_onion or is_float):
      raise ValueError(f'objective.companion_bits={companions}: only rings have companions')
    if companions and (objective.companion_rings or 0) > len(bits):
      raise ValueError(
        f'objective.companion_rings={objective.companion_rings}: bits={bits} has {len(bits)} rings'
      )
    if objective.distillation and objective.teacher == 'highest' and len(bits) == 1:
      raise ValueError(
        f'objective.distillation={objective.distillation}: the only one of bits={bits} has none to '
        'teach'
      )
    if objective.distillation and objective.teacher_start >= self.epochs:
      raise ValueError(
        f'objective.teacher_start={objective.teacher_start} must be below epochs={self.epochs}'
      )
    if optimizer.transition_rate and (not is_onion or is_float):
      raise ValueError(f'optimizer.transition_rate={optimizer.transition_rate} is for rings')
    if weights and len(weights) != len(bits):
      raise ValueError(f'objective.loss_weights={weights} needs one entry for each of bits={bits}')
    if warmup >= self.epochs:
      raise ValueError(f'optimizer.warmup_epochs={warmup} must be below epochs={self.epochs}')
    return self


SECTIONS: Mapping[str, type[Section]] = {
  'data': Data,
  'model': Model,
  'quantization': Quantization,
  'objective': Objective,
  'optimizer': Optimizer,
}


def get_config() -> Any:
  """Returns the default run as a `ConfigDict`, for config files to change and flags to override."""
  config: Any = ml_collections.ConfigDict(Config().model_dump())
  # A flag is parsed as the type of the value. Fields that may be None, or of several types, have to
  # say theirs: text, or any literal (`object`), which the schema then checks.
  for section, fields in ((config, Config), *((config[n], s) for n, s in SECTIONS.items())):
    for name, field in fields.model_fields.items():
      types = get_args(field.annotation)
      if types and get_origin(field.annotation) in (Union, UnionType):
        kind = str if str in types else object
        section[name] = ml_collections.FieldReference(section[name], field_type=kind)
  return config


def validate(config: Mapping[str, Any] | ml_collections.ConfigDict) -> Config:
  """Checks a config against the schema.

  Raises:
    ConfigError: one line that names the first bad field, its value and what is allowed (for an
      unknown field, the nearest known one).
  """
  fields = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
  return _checked(Config.model_validate, fields)


def from_json(text: str) -> Config:
  """Reads what `Config.model_dump_json` wrote; raises what `validate` raises.

  Every field has to be there: one that is lost would have its default, as in another run.
  """
  config = _checked(Config.model_validate_json, text)
  given = _flatten(config.model_dump(exclude_unset=True))
  if missing := [
    name for name in _flatten(config.model_dump()) if name not in given.keys() | _ADDED
  ]:
    raise ConfigError(f'config.{missing[0]} is missing.')
  return config


def ineffective(config: Config) -> list[str]:
  """Lists, one sentence each, the fields that were changed but have no effect in this run."""
  optimizer, objective, quantization = config.optimizer, config.objective, config.quantization
  is_streamed, is_joint = config.data.image_size is not None, len(quantization.bits) > 1
  late = tuple(epoch for epoch in optimizer.decay_epochs if epoch >= config.epochs)
  # Fields, whether they have an effect, and what they need to have one.
  conditions = (
    ('optimizer.decay_epochs optimizer.decay_factor', optimizer.schedule == 'steps',
     'optimizer.schedule=steps'),
    ('optimizer.decay_factor', optimizer.decay_epochs, 'optimizer.decay_epochs'),
    ('optimizer.decay_epochs', not late, f'epochs beyond {late}'),
    ('optimizer.clip_learning_rate optimizer.clip_weight_decay quantization.clip_init '
     'quantization.calibrate_clips', min(quantization.activation_widths) < onion.MAX_BITS,
     f'quantization.activation_bits below {onion.MAX_BITS}'),
    ('quantization.weight_quantizer', quantization.bits != (onion.MAX_BITS,),
     f'quantization.bits below {onion.MAX_BITS}'),
    ('quantization.clip_init', not quantization.calibrate_clips,
     'quantization.calibrate_clips=False'),
    ('quantization.shift_init', quantization.merge == 'psbn', 'quantization.merge=psbn'),
    ('quantization.merge quantization.laterals quantization.shift_init quantization.sum_logits '
     'objective.mode objective.gradient_exponent', is_joint, 'several quantization.bits'),
    ('quantization.merge quantization.laterals quantization.shift_init quantization.sum_logits',
     quantization.sharing == 'rings', 'quantization.sharing=rings'),
    ('objective.gradient_exponent', objective.mode == 'scaled', 'objective.mode=scaled'),
    ('objective.companion_bits', objective.companion_weight > 0,
     'objective.companion_weight above 0'),
    ('objective.companion_rings objective.companion_weight objective.draw_companion',
     objective.companion_bits, 'objective.companion_bits'),
    ('objective.teacher objective.teacher_start', objective.distillation,
     'objective.distillation above 0'),
    ('data.workers data.max_corrupt data.memory_gb data.resize', is_streamed,
     'a streamed set, with data.image_size'),
  )  # fmt: skip
  values, defaults = _flatten(config.model_dump()), _flatten(Config().model_dump())
  return [
    f'config.{name}={values[name]} has no effect: it needs {need}.'
    for fields, has_effect, need in conditions
    for name in fields.split()
    if not has_effect and values[name] != defaults[name]
  ]


def differences(one: Config, other: Config, apart: Set[str]) -> list[str]:
  """Lists the fields in which two configs differ, those `apart` left out: `name: one -> other`."""
  first, second = _flatten(one.model_dump()), _flatten(other.model_dump())
  return [
    f'{name}: {first[name]} -> {second[name]}'
    for name in first
    if first[name] != second[name] and name not in apart
  ]


def field_names() -> frozenset[str]:
  """Returns the names of all fields (`data.batch_size`) and sections (`data`)."""
  return frozenset(_flatten(Config().model_dump())) | frozenset(Config.model_fields)


def unknown_field(name: str) -> ConfigError:
  """Returns the error for a field that does not exist, with the known one spelt most like it."""
  known = sorted(field_names())
  # The right name may also be in the wrong section.
  by_last = {field.rpartition('.')[2]: field for field in known}
  last = names.nearest(name.rpartition('.')[2], by_last)
  nearest = names.nearest(name, known) or (last and by_last[last])
  hint = f'did you mean {nearest}?' if nearest else f'known: {", ".join(Config.model_fields)}.'
  return ConfigError(f'config.{name}: no such field; {hint}')


def _checked(read: Callable[[Any], Config], source: Any) -> Config:
  """Reads a config; an error names the first field that pydantic refuses."""
  try:
    return read(source)
  except pydantic.ValidationError as invalid:
    error = invalid.errors()[0]
  # Places in a list are numbers, which no flag names.
  name = '.'.join(part for part in error['loc'] if isinstance(part, str))
  message = error['msg'].removeprefix('Value error, ')
  if error['type'] == 'extra_forbidden':
    raise unknown_field(name)
  if name in SECTIONS and isinstance(error['input'], Mapping):
    # Of fields that do not agree, which the message names; all others are of no use to the reader.
    name = f'.{name}'
  elif name:
    name, message = f'.{name}={error["input"]!r}', message[0].lower() + message[1:].rstrip('.')
    if isinstance(error['loc'][-1], int):
      message += f'; a list is written with commas: {_with_commas(error["input"])}'
  raise ConfigError(f'config{name}: {message}.')


def _with_commas(given: Any) -> str:
  """Returns the list that a part of one may have been meant for: `2,4` for `2-4`."""
  numbers = re.findall('[0-9]+', str(given))
  return ','.join(numbers) if len(numbers) > 1 else '2,4,8'


def _flatten(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Returns the leaves of nested dicts by dotted name."""
  flat = {}
  for name, leaf in tree.items():
    flat |= _flatten(leaf, f'{prefix}{name}.') if isinstance(leaf, dict) else {prefix + name: leaf}
  return flat
