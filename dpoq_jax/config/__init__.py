"""Says what a training run is: `sections` declares every field, `schema` checks a whole config."""

from dpoq_jax.config.schema import (
  Config,
  ConfigError,
  differences,
  field_names,
  from_json,
  get_config,
  unknown_field,
  validate,
)
from dpoq_jax.config.sections import (
  MODELS,
  OWN_MODEL,
  Data,
  GradientMode,
  Model,
  ModelName,
  Objective,
  Optimizer,
  Quantization,
  Sharing,
  Teacher,
  WeightQuantizer,
)

__all__ = [
  'MODELS',
  'OWN_MODEL',
  'Config',
  'ConfigError',
  'Data',
  'GradientMode',
  'Model',
  'ModelName',
  'Objective',
  'Optimizer',
  'Quantization',
  'Sharing',
  'Teacher',
  'WeightQuantizer',
  'differences',
  'field_names',
  'from_json',
  'get_config',
  'unknown_field',
  'validate',
]
