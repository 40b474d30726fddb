"""Defines the typed schema of a training run, and checks configs against it.

`get_config` makes the `ConfigDict` that config files change and flags override; `validate` turns it
into a frozen `Config`.
"""

from collections.abc import Callable, Mapping, Set
import difflib
from typing import Annotated, Any, Literal

import ml_collections
import pydantic
from pydantic import Field

from dpoq_jax import onion
from dpoq_jax.config.sections import (
  Count,
  Data,
  Model,
  Natural,
  Objective,
  Optimizer,
  Quantization,
  Section,
)


class ConfigError(ValueError):
  """Says, in one line for the user, why a config cannot be run."""


class Config(Section):
  """Describes a training run.

  Attributes:
    seed: seed of initialisation, data order and augmentation.
    epochs: passes over the training examples.
    log_every: steps between rows of training metrics.
    eval_every: epochs between evaluations; the last epoch is always evaluated.
    checkpoint_every: steps between checkpoints; None saves after every epoch.
    steps_per_dispatch: most steps that run without the host, on devices that hold the training set;
      None is 50 on accelerators, 1 on CPU. A streamed set takes 1. May change on resume.
    max_skipped_steps: steps that may be skipped as not finite before the run stops.
    init_from: directory of a run to start from: one whose bits begin this bit list, whose paths are
      kept as they are, or one of a float network, from which all paths start.
    batch_statistics: examples that are normalised together: the whole batch (`global`), or the part
      of each device (`per_device`); docs/scaling.md says what each costs and when to choose it.
  """

  seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
  epochs: Count = 30
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
  init_from: str | None = None
  batch_statistics: Literal['global', 'per_device'] = 'global'

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
    objective, optimizer = self.objective, self.optimizer
    companions, is_float = objective.companion_bits, bits == (onion.MAX_BITS,)
    if companions and (not is_onion or is_float):
      raise ValueError(f'objective.companion_bits={companions}: only rings have companions')
    if companions and objective.companion_rings > len(bits):
      raise ValueError(
        f'objective.companion_rings={objective.companion_rings}: bits={bits} has {len(bits)} rings'
      )
    if optimizer.transition_rate and (not is_onion or is_float):
      raise ValueError(f'optimizer.transition_rate={optimizer.transition_rate} is for rings')
    if weights and len(weights) != len(bits):
      raise ValueError(f'objective.loss_weights={weights} needs one entry for each of bits={bits}')
    if warmup >= self.epochs:
      raise ValueError(f'optimizer.warmup_epochs={warmup} must be below epochs={self.epochs}')
    return self


def get_config() -> Any:
  """Returns the default run as a `ConfigDict`, for config files to change and flags to override."""
  config: Any = ml_collections.ConfigDict(Config().model_dump())
  # A flag is parsed as the type of the value, which fields that may be None, or of several types
  # (`object`: any literal), have to say.
  for section, fields in (
    (config, {'checkpoint_every': int, 'steps_per_dispatch': int, 'init_from': str}),
    (config.data, {'dir': str, 'test_split': str, 'image_size': int, 'resize': int}),
    (config.model, {'depth': int, 'width': int}),
    (config.quantization, {'activation_bits': object, 'clip_init': float}),
    (config.optimizer, {'clip_weight_decay': float, 'latent_weight_decay': float}),
  ):
    for name, kind in fields.items():
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
  """Reads what `Config.model_dump_json` wrote; raises what `validate` raises."""
  return _checked(Config.model_validate_json, text)


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
  closest = difflib.get_close_matches(name.rpartition('.')[2], by_last, n=1)
  nearest = difflib.get_close_matches(name, known, n=1) or [by_last[last] for last in closest]
  hint = f'did you mean {nearest[0]}?' if nearest else f'known: {", ".join(Config.model_fields)}.'
  return ConfigError(f'config.{name}: no such field; {hint}')


def _checked(read: Callable[[Any], Config], source: Any) -> Config:
  """Reads a config; an error names the first field that pydantic refuses."""
  try:
    return read(source)
  except pydantic.ValidationError as invalid:
    error = invalid.errors()[0]
  name, message = '.'.join(map(str, error['loc'])), error['msg'].removeprefix('Value error, ')
  if error['type'] == 'extra_forbidden':
    raise unknown_field(name)
  if name:
    name, message = f'.{name}={error["input"]!r}', message[0].lower() + message[1:].rstrip('.')
  raise ConfigError(f'config{name}: {message}.')


def _flatten(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Returns the leaves of nested dicts by dotted name."""
  flat = {}
  for name, leaf in tree.items():
    flat |= _flatten(leaf, f'{prefix}{name}.') if isinstance(leaf, dict) else {prefix + name: leaf}
  return flat
