"""Defines the sections of a config: every field, its default and its bounds.

The defaults are the embedded job: scikit-learn's digits, ResNet-8.
"""

import re
from typing import Annotated, Any, Literal, get_args

import pydantic
from pydantic import AfterValidator, Field

from dpoq_jax import onion
from dpoq_jax.config.bounds import (
  GREATEST,
  MOST_EPOCHS,
  MOST_LAYERS,
  BatchSize,
  Depth,
  Epochs,
  Fraction,
  Name,
  Natural,
  NonNegative,
  Positive,
  Section,
  Side,
  Text,
  Width,
  Workers,
)

# The only list of the values that a field allows. What a value stands for is chosen by a `match`
# over the type, which the type checker proves complete.
ModelName = Literal['resnet', 'vgg', 'mobilenet', 'imagenet_resnet']
WeightQuantizer = Literal[
  'dorefa', 'standardised', 'standardised_least_error', 'standardised_per_channel'
]
MergeName = Literal['psbn', 'vanilla']
LateralsName = Literal['every_layer', 'block_ends']
Sharing = Literal['rings', 'rounded', 'floored']
GradientMode = Literal['scaled', 'joint', 'separate']
Teacher = Literal['highest', 'companion']
MODELS = get_args(ModelName)
OWN_MODEL = re.compile(r'[^\W\d][\w.]*:[^\W\d]\w*')  # MODULE:CLASS
# What a quantizer computes exactly, and float.
_WIDTHS = frozenset({*range(1, onion.MAX_BITS // 2 + 1), onion.MAX_BITS})
_DEPTHS = {'vgg': (11,), 'mobilenet': (None,), 'imagenet_resnet': (18, 34, 50)}


def _around(depth: int | None) -> str:
  """Returns the depths of CIFAR ResNets next to one that none has."""
  if depth is None or depth < 8:
    return '8 is the smallest'
  below = depth - (depth - 2) % 6
  return f'next to {depth} are {below} and {below + 6}'


def _of_depth(depth: int | None) -> str:
  """Returns which models have a depth that another does not have."""
  having = [name for name, depths in _DEPTHS.items() if depth in depths]
  return f'; depth={depth} is of {" and ".join(having)} (config.model.name)' if having else ''


def usual_resize(image_size: int) -> int:
  """Returns the shorter side of which a central crop of this size has its usual share, 7/8."""
  return round(image_size * 256 / 224)


class Data(Section):
  """Describes the examples that are trained and reported on.

  Attributes:
    name: data set: `digits`, `cifar10` or `cifar100`, kept in memory; any other is streamed: a TFDS
      data set (`imagenet2012`, `name/config`), or the path of a version directory of one.
    dir: data directory of TFDS; None is TFDS's own. May change on resume.
    train_split: split of a streamed set that is trained on, or a part of one, as TFDS writes it
      (`train[:90%]`).
    test_split: split, or part of one, of a streamed set that is reported on; it shares no examples
      with `train_split`. None is `validation` or else `test`.
    batch_size: examples per step, over all devices.
    image_size: side of the square crops of a streamed set: random ones in training, central ones in
      evaluation; None for the sets named above.
    memory_gb: a split of images of `image_size` that takes at most so many GB is decoded once and
      kept in memory, its central crops; augmented by `pad` and `flip` alone. 0 streams all.
    resize: shorter side to which evaluation resizes images of a streamed set, before the crop; None
      is `image_size` * 256 / 224, the usual share, and for a set in memory nothing.
    workers: processes that decode a streamed set; 0 decodes in threads. May change on resume.
    max_corrupt: corrupt records of a streamed set that a process may skip. May change on resume.
    pad: pixels of padding for random crops, 0 for none; streamed sets, cropped already, take none.
    flip: whether images are flipped at random, left to right.
    holdout: training examples held out for `calibrate`; if 0, it takes half of the test split.
  """

  name: Name = 'digits'
  dir: Text = None
  train_split: Name = 'train'
  test_split: Text = None
  batch_size: BatchSize = 64
  image_size: Side | None = None
  memory_gb: NonNegative = 0.0
  resize: Annotated[Side | None, Field(validate_default=True)] = None
  workers: Workers = 0
  max_corrupt: Natural = 10
  pad: Annotated[int, Field(ge=0, le=2**14)] = 1
  flip: bool = False
  holdout: Natural = 0

  @pydantic.field_validator('resize', mode='before')
  @classmethod
  def _resize_follows_the_size(cls, resize: Any, info: pydantic.ValidationInfo) -> Any:
    """Fills in what None stands for, so that configs that mean the same are the same."""
    size = info.data.get('image_size')
    if size is not None:
      return usual_resize(size) if resize is None else resize
    # Runs on sets in memory were once written down with a 256 that meant nothing.
    if resize not in (None, 256):
      raise ValueError('only images of a streamed set, which have an image_size, are resized')
    return None

  @pydantic.model_validator(mode='after')
  def _sizes_agree(self) -> 'Data':
    if self.image_size and self.resize and self.image_size > self.resize:
      raise ValueError(f'image_size={self.image_size} must be at most resize={self.resize}')
    return self


class Model(Section):
  """Describes the network of one path.

  Attributes:
    name: architecture: `resnet` (the CIFAR family), `vgg` (with batch norm) or `mobilenet` (V2) for
      small images; `imagenet_resnet`; or a model of your own, as `MODULE:CLASS`.
    depth: number of weighted layers: 6n+2, 11, None (MobileNetV2 has one depth), 18, 34 or 50. Your
      own model is given depth and width as attributes, unless they are None.
    width: channels of the first stage (MobileNetV2: of the stem); None is as published.
  """

  name: Name = 'resnet'
  depth: Depth | None = 8
  width: Width | None = 16

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
      raise ValueError(
        f'a network {name} has 6n+2 layers, 8 to {MOST_LAYERS - (MOST_LAYERS - 2) % 6}: '
        f'{_around(depth)}{_of_depth(depth)}'
      )
    if name in _DEPTHS and depth not in _DEPTHS[name]:
      allowed = ', '.join(map(str, _DEPTHS[name]))
      raise ValueError(f'a network {name} has depth {allowed}{_of_depth(depth)}')
    return depth


class Quantization(Section):
  """Describes how weights and activations become integers.

  Attributes:
    bits: bit list; one entry is an individual network, (32,) the float network.
    activation_bits: bits of the activations, one number for all precisions or, as a tuple, one for
      each of `bits`; 32 is a plain ReLU.
    weight_quantizer: quantizer of the weights; the paper's is `dorefa`. The others standardise each
      kernel (or output channel) and clip it: see `core.quantizers`.
    merge: how lower paths' features are merged: `psbn` (precision-shift batch normalisation, eq. 8)
      or `vanilla` (figure 2a).
    laterals: where paths hand features up: at `every_layer`, as in the paper, or, ours and cheaper,
      at `block_ends` alone: the last convolution of each residual block, in VGG of each stage.
    clip_init: PACT's alpha before training; None is what suits the activation bits.
    calibrate_clips: whether training starts from clips that quantize the first batch with the least
      mean squared error, in place of `clip_init`.
    shift_init: precision shifts gamma_{j->k} before training.
    sum_logits: whether a path adds the logits of the path below, times a learned scale, to its own.
    compute_dtype: type of the operands of convolutions.
    sharing: what precisions share: `rings` of one integer (the onion), or, for comparison, one
      float kernel that is `rounded` or `floored` anew for each precision.
    truncate_to: precisions that an individual network is truncated to after it was trained.
  """

  bits: Annotated[tuple[int, ...], AfterValidator(onion.check_bits)] = (2, 4, 8, 16)
  activation_bits: int | tuple[int, ...] = 8
  weight_quantizer: WeightQuantizer = 'dorefa'
  merge: MergeName = 'psbn'
  laterals: LateralsName = 'every_layer'
  clip_init: Positive | None = None
  calibrate_clips: bool = False
  shift_init: Annotated[float, Field(ge=-GREATEST, le=GREATEST)] = 0.0
  sum_logits: bool = False
  compute_dtype: Literal['float32', 'bfloat16'] = 'float32'
  sharing: Sharing = 'rings'
  truncate_to: tuple[int, ...] = ()

  @property
  def activation_widths(self) -> tuple[int, ...]:
    """Returns the activation bits of every precision."""
    return onion.activation_widths(self.activation_bits, self.bits)

  @pydantic.model_validator(mode='before')
  @classmethod
  def _read_earlier_fields(cls, given: Any, info: pydantic.ValidationInfo) -> Any:
    """Reads what runs and artifacts wrote while `match_activations` was a field."""
    if not isinstance(given, dict) or info.mode != 'json':
      return given
    # A tuple is a list in JSON, which pydantic knows only of what no validator has seen.
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    if {'match_activations', 'activation_bits', 'bits', 'clip_init'} <= fields.keys():
      if fields.pop('match_activations'):
        fields |= {'activation_bits': fields['bits'], 'clip_init': None}
      # The clip that suits the activation bits was written out as a number.
      if fields['clip_init'] == (2.0 if fields['activation_bits'] in (1, 2) else 6.0):
        fields['clip_init'] = None
    return fields

  @pydantic.field_validator('activation_bits', mode='before')
  @classmethod
  def _widths_are_one_or_as_many(cls, given: Any, info: pydantic.ValidationInfo) -> Any:
    # A tuple is a list in JSON.
    widths = tuple(given) if isinstance(given, list | tuple) else (given,)
    if any(type(width) is not int for width in widths):
      raise ValueError('give a number of bits, or one for each precision, with commas: 2,4,8,16')
    if not set(widths) <= _WIDTHS:
      raise ValueError(
        f'1 to {max(_WIDTHS - {onion.MAX_BITS})} bits, or {onion.MAX_BITS} for float'
      )
    if not isinstance(given, list | tuple):
      return given
    bits = info.data.get('bits')
    if bits and len(widths) != len(bits):
      raise ValueError(f'a tuple needs one entry for each of bits={bits}')
    return widths

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
    if self.sharing == 'floored' and self.weight_quantizer != 'dorefa':
      raise ValueError(f'sharing=floored has a quantizer of its own, not {self.weight_quantizer}')
    return self


class Objective(Section):
  """Describes the joint loss.

  Attributes:
    mode: gradients that reach lower paths: `scaled` (eq. 6), `joint` (whole) or `separate` (none).
    gradient_exponent: p of lambda(j, k) = (b_j / b_k)**p, for `scaled`; the paper's is 1.
    loss_weights: alpha_k of eq. 5, one for each precision; if empty, all are 1.
    label_smoothing: share of the target that is spread over all classes.
    companion_bits: widths at which the lowest rings also run in training alone, each as a companion
      path (`network.companions`); 32 is the float latent, none if empty.
    companion_rings: number of the lowest rings that have companions; None: every ring.
    companion_weight: weight of each companion's loss beside eq. 5.
    draw_companion: whether each step trains one companion, drawn at random, in place of all; slow
      on CPU.
    distillation: share of a teacher's softmax in the target of those it teaches, from the network
      itself (in-place distillation: Yu and Huang, arXiv:1903.05134).
    teacher: who teaches: the `highest` precision, all below it; or each `companion` its own ring.
    teacher_start: epochs before teaching starts, since an untrained teacher does harm.
  """

  mode: GradientMode = 'scaled'
  gradient_exponent: Positive = 1.0
  loss_weights: tuple[NonNegative, ...] = ()
  label_smoothing: Fraction = 0.0
  companion_bits: tuple[int, ...] = ()
  companion_rings: Annotated[int, Field(ge=1, le=onion.MAX_BITS)] | None = 1
  companion_weight: NonNegative = 1.0
  draw_companion: bool = False
  distillation: Annotated[float, Field(ge=0, le=1)] = 0.0
  teacher: Teacher = 'highest'
  teacher_start: Epochs = 0.0

  @pydantic.field_validator('companion_bits')
  @classmethod
  def _companions_increase(cls, bits: tuple[int, ...]) -> tuple[int, ...]:
    if list(bits) != sorted(set(bits)) or not set(bits) <= _WIDTHS:
      raise ValueError(f'increasing widths of 1 to 16 bits, or {onion.MAX_BITS} for float')
    return bits

  @pydantic.model_validator(mode='after')
  def _teacher_exists(self) -> 'Objective':
    if self.draw_companion and not self.companion_bits:
      raise ValueError('draw_companion=True needs companion_bits to draw from')
    trained = self.companion_bits and self.companion_weight > 0 and not self.draw_companion
    if self.distillation and self.teacher == 'companion' and not trained:
      raise ValueError(
        'teacher=companion needs companion_bits, of a weight above 0, and all of them at every step'
      )
    return self


class Optimizer(Section):
  """Describes SGD with momentum, L2 decay and a schedule.

  Attributes:
    learning_rate: learning rate at its peak.
    momentum: share of the velocity that is kept from step to step.
    weight_decay: L2 decay, which is added to the gradient of every parameter.
    latent_weight_decay: L2 decay of the latents; None is `weight_decay`.
    transition_rate: share of a 2-bit ring's weights that are to change their code in a step, at the
      peak of the schedule, which it follows (`training.transition_rate`); 0 leaves latents to the
      learning rate.
    clip_learning_rate: factor on the learning rate of the PACT clips.
    clip_weight_decay: L2 decay of the PACT clips; None is `weight_decay`.
    schedule: `steps` (times `decay_factor` after each of `decay_epochs`) or `cosine` (down to 0).
    decay_epochs: increasing epochs after which the learning rate drops.
    decay_factor: factor of each drop.
    warmup_epochs: epochs over which the learning rate rises linearly; it peaks at their last step.
  """

  learning_rate: Positive = 0.1
  momentum: Fraction = 0.9
  weight_decay: NonNegative = 5e-4
  latent_weight_decay: NonNegative | None = None
  transition_rate: Fraction = 0.0
  clip_learning_rate: NonNegative = 1.0
  clip_weight_decay: NonNegative | None = None
  schedule: Literal['steps', 'cosine'] = 'steps'
  decay_epochs: tuple[Annotated[float, Field(gt=0, le=MOST_EPOCHS)], ...] = ()
  decay_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
  warmup_epochs: Epochs = 0.0

  @pydantic.field_validator('decay_epochs')
  @classmethod
  def _epochs_increase(cls, epochs: tuple[float, ...]) -> tuple[float, ...]:
    if list(epochs) != sorted(set(epochs)):
      raise ValueError('epochs must increase')
    return epochs
