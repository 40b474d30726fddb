"""The typed schema of a training run: every field, its default, its bounds.

A config file returns an `ml_collections.ConfigDict` made by `get_config`, so that flags can
override any field; `validate` turns the result into a frozen `Config`. The defaults are the
embedded job: scikit-learn's digits, ResNet-8, bits (2, 4, 8, 16).
"""

from collections.abc import Mapping, Set
import difflib
import re
from typing import Annotated, Any, Literal, get_args

import ml_collections
from ml_collections import config_dict
import pydantic
from pydantic import Field

from dpoq_jax import onion

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
# The deepest published residual network has 1,202 layers; a file may ask for any number.
Depth = Annotated[int, Field(ge=1, le=2000)]


# The values that a field allows stand here alone; what each stands for is chosen by a `match` over
# its type, which the type checker holds to be complete.
ModelName = Literal['resnet', 'vgg', 'mobilenet', 'imagenet_resnet']
WeightQuantizer = Literal['dorefa', 'standardised']
MergeName = Literal['psbn', 'vanilla']
Sharing = Literal['rings', 'rounded', 'floored']
GradientMode = Literal['scaled', 'joint', 'separate']


class ConfigError(ValueError):
  """A config that cannot be run; its message is one line for the user."""


class _Section(pydantic.BaseModel):
  model_config = pydantic.ConfigDict(extra='forbid', frozen=True, strict=True)


class Data(_Section):
  """What is trained on.

  Attributes:
    name: `digits`, `cifar10` or `cifar100`, kept in memory; any other is streamed: a TFDS data set
      (`imagenet2012`, `name/config`), or the path of a version directory of one.
    dir: TFDS data directory; None is TFDS's own default. A location, so it may change on resume.
    test_split: reported on; None is `validation` if there is one, else `test`. Streamed sets.
    batch_size: examples per step, over all devices.
    image_size: side of the square that the network gets, a random crop in training and the central
      one in evaluation. Streamed sets; None for those in memory.
    resize: shorter side of an image in evaluation, before the centre is taken. Streamed sets.
    workers: processes that decode a streamed set; 0 decodes in threads. May change on resume.
    max_corrupt: records of a streamed set that are skipped as corrupt, by a process, before the run
      stops; may change on resume.
    pad: pixels of padding for random crops; 0 crops nothing.
    flip: random horizontal flips.
    holdout: training examples kept out of training, for `calibrate`; 0 keeps none, and half of the
      test split calibrates.
  """

  name: str = 'digits'
  dir: str | None = None
  test_split: str | None = None
  batch_size: Count = 64
  image_size: Count | None = None
  resize: Count = 256
  workers: Annotated[int, Field(ge=0)] = 0
  max_corrupt: Annotated[int, Field(ge=0)] = 10
  pad: Annotated[int, Field(ge=0)] = 1
  flip: bool = False
  holdout: Annotated[int, Field(ge=0)] = 0

  @pydantic.model_validator(mode='after')
  def _sizes_agree(self) -> 'Data':
    if self.image_size and self.image_size > self.resize:
      raise ValueError(f'image_size={self.image_size} must be at most resize={self.resize}')
    return self


MODELS = get_args(ModelName)
# A class, and the module that it is imported from.
OWN_MODEL = re.compile(r'[^\W\d][\w.]*:[^\W\d]\w*')
_DEPTHS = {'vgg': (11,), 'mobilenet': (None,), 'imagenet_resnet': (18, 34, 50)}


class Model(_Section):
  """The network of one path.

  Attributes:
    name: `resnet` (the CIFAR family), `vgg` (with batch norm), `mobilenet` (V2), all for small
      images; `imagenet_resnet`; or a model of your own, as `MODULE:CLASS`.
    depth: weighted layers: 6n+2, 11, none (MobileNetV2 has one depth), 18, 34 or 50. An own model
      is given depth and width as attributes, unless they are None.
    width: channels of the first stage (MobileNetV2: of the stem); None is the published network's.
  """

  name: str = 'resnet'
  depth: Depth | None = 8
  width: Count | None = 16

  @property
  def label(self) -> str:
    """Name and depth, for tables."""
    return f'{self.name}{self.depth or ""}'

  @pydantic.field_validator('name')
  @classmethod
  def _name_is_known(cls, name: str) -> str:
    if name not in MODELS and not OWN_MODEL.fullmatch(name):
      raise ValueError(f'there are {", ".join(MODELS)}; your own is written MODULE:CLASS')
    return name

  @pydantic.field_validator('depth')
  @classmethod
  def _depth_exists(cls, depth: int | None, info: pydantic.ValidationInfo) -> int | None:
    name = info.data.get('name')
    if name == 'resnet' and (depth is None or depth < 8 or (depth - 2) % 6):
      raise ValueError('a CIFAR ResNet has 6n+2 layers: 8, 14, 20, 32, ...')
    if name in _DEPTHS and depth not in _DEPTHS[name]:
      raise ValueError(f'a network {name} has depth {", ".join(map(str, _DEPTHS[name]))}')
    return depth


class Quantization(_Section):
  """How weights and activations become integers.

  Attributes:
    bits: the bit list; one entry is an individual network, (32,) the float one.
    activation_bits: of every activation; 32 is a plain ReLU.
    weight_quantizer: `dorefa` (the paper's) or `standardised`.
    merge: `psbn` or `vanilla`.
    clip_init: PACT's alpha at the start.
    shift_init: the precision shifts gamma_{j->k} at the start.
    compute_dtype: of the convolutions' operands.
    sharing: what precisions have in common: `rings` of one integer (the onion), or, to compare, one
      float kernel that each precision has `rounded` or `floored` anew.
    match_activations: activations get as many bits as their precision's weights; for shared kernels
      (AdaBits), where it replaces `activation_bits`.
    truncate_to: further precisions at which the summary reports an individual network, its weights
      truncated after training.
  """

  bits: tuple[int, ...] = (2, 4, 8, 16)
  activation_bits: int = 8
  weight_quantizer: WeightQuantizer = 'dorefa'
  merge: MergeName = 'psbn'
  clip_init: Positive = 6.0
  shift_init: Annotated[float, Field(allow_inf_nan=False)] = 0.0
  compute_dtype: Literal['float32', 'bfloat16'] = 'float32'
  sharing: Sharing = 'rings'
  match_activations: bool = False
  truncate_to: tuple[int, ...] = ()

  @pydantic.field_validator('bits')
  @classmethod
  def _bits_increase(cls, bits: tuple[int, ...]) -> tuple[int, ...]:
    return onion.check_bits(bits)

  @pydantic.model_validator(mode='after')
  def _systems_exist(self) -> 'Quantization':
    all_bits = (*self.truncate_to, *self.bits)
    if self.truncate_to and (len(self.bits) > 1 or list(all_bits) != sorted(set(all_bits))):
      raise ValueError(
        f'truncate_to={self.truncate_to}: increasing, and below the one precision that is trained; '
        f'bits={self.bits}'
      )
    # The float kernel itself has no codes to cut bits off, nor to round.
    if self.truncate_to and (self.truncate_to[0] < 1 or self.bits == (onion.MAX_BITS,)):
      raise ValueError(
        f'truncate_to={self.truncate_to}: bits of codes, from 1; bits={self.bits}, where '
        f'{onion.MAX_BITS} is a float network'
      )
    if self.sharing != 'rings' and onion.MAX_BITS in self.bits:
      raise ValueError(
        f'sharing={self.sharing}: every precision quantizes the kernels; bits={self.bits}, where '
        f'{onion.MAX_BITS} is a float network'
      )
    if self.match_activations and self.sharing == 'rings':
      raise ValueError('match_activations=True is for kernels that are rounded or floored')
    if self.sharing == 'floored' and self.weight_quantizer != 'dorefa':
      raise ValueError(f'sharing=floored has a quantizer of its own, not {self.weight_quantizer}')
    return self


class Objective(_Section):
  """The joint loss (METHOD 4).

  Attributes:
    mode: `scaled` (eq. 6), `joint` or `separate`.
    loss_weights: alpha_k of eq. 5, one per precision; empty means 1 for all.
    label_smoothing: in [0, 1).
  """

  mode: GradientMode = 'scaled'
  loss_weights: tuple[NonNegative, ...] = ()
  label_smoothing: Fraction = 0.0


class Optimizer(_Section):
  """SGD with momentum, L2 decay and a schedule.

  Attributes:
    learning_rate: peak.
    momentum: of the velocity.
    weight_decay: L2, added to the gradient of every parameter.
    clip_learning_rate: factor on the learning rate of the PACT clips.
    clip_weight_decay: their own decay; None is `weight_decay`.
    schedule: `steps` (multiply by `decay_factor` after each of `decay_epochs`) or `cosine` (to 0).
    decay_epochs: increasing.
    decay_factor: in (0, 1].
    warmup_epochs: of linear warm-up from 0.
  """

  learning_rate: Positive = 0.1
  momentum: Fraction = 0.9
  weight_decay: NonNegative = 5e-4
  clip_learning_rate: NonNegative = 1.0
  clip_weight_decay: NonNegative | None = None
  schedule: Literal['steps', 'cosine'] = 'steps'
  decay_epochs: tuple[Positive, ...] = ()
  decay_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
  warmup_epochs: NonNegative = 0.0

  @pydantic.field_validator('decay_epochs')
  @classmethod
  def _epochs_increase(cls, epochs: tuple[float, ...]) -> tuple[float, ...]:
    if list(epochs) != sorted(set(epochs)):
      raise ValueError('epochs must increase')
    return epochs


class Config(_Section):
  """A training run.

  Attributes:
    seed: of initialisation, data order and augmentation.
    epochs: passes over the training split.
    log_every: steps between rows of training metrics.
    eval_every: epochs between evaluations; the last epoch is always evaluated.
    checkpoint_every: steps between checkpoints; None saves after every epoch.
    steps_per_dispatch: most steps that run without the host, on devices that hold the training set.
      None is 50 on accelerators, 1 on CPU; for a streamed set it is 1 always. May change on resume.
    max_skipped_steps: steps with a non-finite loss or gradient before the run stops.
    init_from: directory of a run to start from: one whose bits begin this bit list (its paths are
      kept as they are, the others are trained), or a float network (all paths start from it).
    batch_statistics: `global`, of the whole batch: the same training, to rounding, on any number of
      devices, at four small all-reduces for each normalisation, one after the other; or
      `per_device`, of each device's part: nothing to wait for, but a training that depends on the
      number of devices, which should have 32 images each. What that costs is in docs/scaling.md.
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
  max_skipped_steps: Annotated[int, Field(ge=0)] = 20
  init_from: str | None = None
  batch_statistics: Literal['global', 'per_device'] = 'global'

  @pydantic.model_validator(mode='after')
  def _fields_agree(self) -> 'Config':
    weights, bits = self.objective.loss_weights, self.quantization.bits
    if self.quantization.sharing != 'rings' and self.objective.mode != 'joint':
      raise ValueError(
        f'objective.mode={self.objective.mode}: precisions that share whole kernels hand nothing '
        'up whose gradient could be scaled or stopped; give joint'
      )
    if self.quantization.sharing != 'rings' and self.init_from:
      raise ValueError(f'init_from={self.init_from}: only an onion starts from another run')
    if weights and len(weights) != len(bits):
      raise ValueError(f'objective.loss_weights={weights} needs one entry for each of bits={bits}')
    if self.optimizer.warmup_epochs >= self.epochs:
      raise ValueError(
        f'optimizer.warmup_epochs={self.optimizer.warmup_epochs} must be below epochs={self.epochs}'
      )
    return self


def get_config() -> Any:
  """The default run as a `ConfigDict`, for config files to change and flags to override."""
  config: Any = ml_collections.ConfigDict(Config().model_dump())
  # None has no type that a flag could be parsed as.
  config.data.dir = config_dict.placeholder(str)
  config.data.test_split = config_dict.placeholder(str)
  config.data.image_size = config_dict.placeholder(int)
  for field in ('depth', 'width'):
    config.model[field] = config_dict.FieldReference(config.model[field], field_type=int)
  config.optimizer.clip_weight_decay = config_dict.placeholder(float)
  config.checkpoint_every = config_dict.placeholder(int)
  config.steps_per_dispatch = config_dict.placeholder(int)
  config.init_from = config_dict.placeholder(str)
  return config


def validate(config: Mapping[str, Any] | ml_collections.ConfigDict) -> Config:
  """Checks a config against the schema.

  Raises:
    ConfigError: one line that names the first bad field, its value and what is allowed (for an
      unknown field, the nearest known one).
  """
  fields = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
  try:
    return Config.model_validate(fields)
  except pydantic.ValidationError as error:
    raise ConfigError(_describe(error.errors()[0])) from None


def from_json(text: str) -> Config:
  """Reads what `Config.model_dump_json` wrote.

  Raises:
    ConfigError: as `validate`.
  """
  try:
    return Config.model_validate_json(text)
  except pydantic.ValidationError as error:
    raise ConfigError(_describe(error.errors()[0])) from None


def differences(one: Config, other: Config, apart: Set[str]) -> list[str]:
  """Lists the fields in which two configs differ, those `apart` left out: `name: one -> other`."""
  first, second = _flatten(one.model_dump()), _flatten(other.model_dump())
  return [
    f'{name}: {first[name]} -> {second[name]}'
    for name in first
    if first[name] != second[name] and name not in apart
  ]


def default_clip(activation_bits: int) -> float:
  """PACT's alpha at the start: four levels want a tighter clip than 256."""
  return 2.0 if activation_bits <= 2 else 6.0


def field_names() -> frozenset[str]:
  """Every field (`data.batch_size`) and section (`data`) of the schema."""
  fields = _flatten(Config().model_dump())
  return frozenset(fields) | frozenset(Config.model_fields)


def nearest_field(name: str) -> str | None:
  """The known field (`data.batch_size`, say) that is spelt most like `name`, if any is close."""
  known = sorted(field_names())
  if matches := difflib.get_close_matches(name, known, n=1):
    return matches[0]
  # A right name in the wrong section.
  last = {field.rpartition('.')[2]: field for field in known}
  matches = difflib.get_close_matches(name.rpartition('.')[2], last, n=1)
  return last[matches[0]] if matches else None


def unknown_field(name: str) -> ConfigError:
  """The error for a field that does not exist."""
  nearest = nearest_field(name)
  hint = f'did you mean {nearest}?' if nearest else f'known: {", ".join(Config.model_fields)}.'
  return ConfigError(f'config.{name}: no such field; {hint}')


def _describe(error: Mapping[str, Any]) -> str:
  name = '.'.join(str(part) for part in error['loc'])
  if error['type'] == 'extra_forbidden':
    return str(unknown_field(name))
  message = error['msg'].removeprefix('Value error, ')
  if not name:
    return f'config: {message}.'
  return f'config.{name}={error["input"]!r}: {message[0].lower()}{message[1:].rstrip(".")}.'


def _flatten(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  flat = {}
  for name, leaf in tree.items():
    flat |= _flatten(leaf, f'{prefix}{name}.') if isinstance(leaf, dict) else {prefix + name: leaf}
  return flat
