"""Defines the typed schema of a training run: every field, its default and its bounds.

`get_config` makes the `ConfigDict` that config files change and flags override; `validate` turns it
into a frozen `Config`. The defaults are the embedded job: scikit-learn's digits, ResNet-8.
"""

from collections.abc import Callable, Mapping, Set
import difflib
import re
from typing import Annotated, Any, Literal, get_args

import ml_collections
import pydantic
from pydantic import AfterValidator, Field

from dpoq_jax import onion

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Natural = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
# Bounded, since a file may ask for any number; the deepest published ResNet has 1,202 layers.
Depth = Annotated[int, Field(ge=1, le=2000)]

# The only list of the values that a field allows. What a value stands for is chosen by a `match`
# over the type, which the type checker proves complete.
ModelName = Literal['resnet', 'vgg', 'mobilenet', 'imagenet_resnet']
WeightQuantizer = Literal['dorefa', 'standardised']
MergeName = Literal['psbn', 'vanilla']
Sharing = Literal['rings', 'rounded', 'floored']
GradientMode = Literal['scaled', 'joint', 'separate']
MODELS = get_args(ModelName)
OWN_MODEL = re.compile(r'[^\W\d][\w.]*:[^\W\d]\w*')  # MODULE:CLASS
_DEPTHS = {'vgg': (11,), 'mobilenet': (None,), 'imagenet_resnet': (18, 34, 50)}


class ConfigError(ValueError):
  """Says, in one line for the user, why a config cannot be run."""


class _Section(pydantic.BaseModel):
  model_config = pydantic.ConfigDict(extra='forbid', frozen=True, strict=True)


class Data(_Section):
  """Describes the examples that are trained and reported on.

  Attributes:
    name: data set: `digits`, `cifar10` or `cifar100`, kept in memory; any other is streamed: a TFDS
      data set (`imagenet2012`, `name/config`), or the path of a version directory of one.
    dir: data directory of TFDS; None is TFDS's own. May change on resume.
    test_split: split of a streamed set that is reported on; None is `validation` or else `test`.
    batch_size: examples per step, over all devices.
    image_size: side of the square crops of a streamed set: random ones in training, central ones in
      evaluation; None for a set in memory.
    resize: shorter side to which evaluation resizes images of a streamed set, before the crop.
    workers: processes that decode a streamed set; 0 decodes in threads. May change on resume.
    max_corrupt: corrupt records of a streamed set that a process may skip. May change on resume.
    pad: pixels of padding for random crops; 0 crops nothing.
    flip: whether images are flipped at random, left to right.
    holdout: training examples held out for `calibrate`; if 0, it takes half of the test split.
  """

  name: str = 'digits'
  dir: str | None = None
  test_split: str | None = None
  batch_size: Count = 64
  image_size: Count | None = None
  resize: Count = 256
  workers: Natural = 0
  max_corrupt: Natural = 10
  pad: Natural = 1
  flip: bool = False
  holdout: Natural = 0

  @pydantic.model_validator(mode='after')
  def _sizes_agree(self) -> 'Data':
    if self.image_size and self.image_size > self.resize:
      raise ValueError(f'image_size={self.image_size} must be at most resize={self.resize}')
    return self


class Model(_Section):
  """Describes the network of one path.

  Attributes:
    name: architecture: `resnet` (the CIFAR family), `vgg` (with batch norm) or `mobilenet` (V2) for
      small images; `imagenet_resnet`; or a model of your own, as `MODULE:CLASS`.
    depth: number of weighted layers: 6n+2, 11, None (MobileNetV2 has one depth), 18, 34 or 50. Your
      own model is given depth and width as attributes, unless they are None.
    width: channels of the first stage (MobileNetV2: of the stem); None is as published.
  """

  name: str = 'resnet'
  depth: Depth | None = 8
  width: Count | None = 16

  @property
  def label(self) -> str:
    """Returns name and depth, for tables."""
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
  """Describes how weights and activations become integers.

  Attributes:
    bits: bit list; one entry is an individual network, (32,) the float network.
    activation_bits: bits of every activation; 32 is a plain ReLU.
    weight_quantizer: quantizer of the weights; the paper's is `dorefa`.
    merge: how lower paths' features are merged: `psbn` or `vanilla`.
    clip_init: PACT's alpha before training.
    shift_init: precision shifts gamma_{j->k} before training.
    compute_dtype: type of the operands of convolutions.
    sharing: what precisions share: `rings` of one integer (the onion), or, for comparison, one
      float kernel that is `rounded` or `floored` anew for each precision.
    match_activations: whether activations get their precision's bits; for shared float kernels.
    truncate_to: precisions that an individual network is truncated to after it was trained.
  """

  bits: Annotated[tuple[int, ...], AfterValidator(onion.check_bits)] = (2, 4, 8, 16)
  activation_bits: int = 8
  weight_quantizer: WeightQuantizer = 'dorefa'
  merge: MergeName = 'psbn'
  clip_init: Positive = 6.0
  shift_init: Annotated[float, Field(allow_inf_nan=False)] = 0.0
  compute_dtype: Literal['float32', 'bfloat16'] = 'float32'
  sharing: Sharing = 'rings'
  match_activations: bool = False
  truncate_to: tuple[int, ...] = ()

  @pydantic.model_validator(mode='after')
  def _systems_exist(self) -> 'Quantization':
    bits, cut, width = self.bits, self.truncate_to, onion.MAX_BITS
    if cut and (len(bits) > 1 or list(cut + bits) != sorted({*cut, *bits})):
      raise ValueError(
        f'truncate_to={cut}: increasing, and below the one precision that is trained; bits={bits}'
      )
    # A float kernel has no codes: there are no bits to cut off, and nothing is rounded.
    given = f'bits={bits}, where {width} is a float network'
    if cut and (cut[0] < 1 or bits == (width,)):
      raise ValueError(f'truncate_to={cut}: bits of codes, from 1; {given}')
    if self.sharing != 'rings' and width in bits:
      raise ValueError(f'sharing={self.sharing}: every precision quantizes the kernels; {given}')
    if self.match_activations and self.sharing == 'rings':
      raise ValueError('match_activations=True is for kernels that are rounded or floored')
    if self.sharing == 'floored' and self.weight_quantizer != 'dorefa':
      raise ValueError(f'sharing=floored has a quantizer of its own, not {self.weight_quantizer}')
    return self


class Objective(_Section):
  """Describes the joint loss.

  Attributes:
    mode: gradients that reach lower paths: `scaled` (eq. 6), `joint` (whole) or `separate` (none).
    loss_weights: alpha_k of eq. 5, one for each precision; if empty, all are 1.
    label_smoothing: share of the target that is spread over all classes.
  """

  mode: GradientMode = 'scaled'
  loss_weights: tuple[NonNegative, ...] = ()
  label_smoothing: Fraction = 0.0


class Optimizer(_Section):
  """Describes SGD with momentum, L2 decay and a schedule.

  Attributes:
    learning_rate: learning rate at its peak.
    momentum: share of the velocity that is kept from step to step.
    weight_decay: L2 decay, which is added to the gradient of every parameter.
    clip_learning_rate: factor on the learning rate of the PACT clips.
    clip_weight_decay: L2 decay of the PACT clips; None is `weight_decay`.
    schedule: `steps` (times `decay_factor` after each of `decay_epochs`) or `cosine` (down to 0).
    decay_epochs: increasing epochs after which the learning rate drops.
    decay_factor: factor of each drop.
    warmup_epochs: epochs over which the learning rate rises linearly from 0.
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
    if weights and len(weights) != len(bits):
      raise ValueError(f'objective.loss_weights={weights} needs one entry for each of bits={bits}')
    if warmup >= self.epochs:
      raise ValueError(f'optimizer.warmup_epochs={warmup} must be below epochs={self.epochs}')
    return self


def get_config() -> Any:
  """Returns the default run as a `ConfigDict`, for config files to change and flags to override."""
  config: Any = ml_collections.ConfigDict(Config().model_dump())
  # Fields that may be None say their type, since a flag is parsed as the type of the value.
  for section, fields in (
    (config, {'checkpoint_every': int, 'steps_per_dispatch': int, 'init_from': str}),
    (config.data, {'dir': str, 'test_split': str, 'image_size': int}),
    (config.model, {'depth': int, 'width': int}),
    (config.optimizer, {'clip_weight_decay': float}),
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


def default_clip(activation_bits: int) -> float:
  """Returns PACT's alpha before training: four levels want a tighter clip than 256."""
  return 2.0 if activation_bits <= 2 else 6.0


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
