"""Changes a config by a variant: short text that names what the paper's tables vary."""

from collections.abc import Callable, Mapping
import re
from typing import Any, get_args

from dpoq_jax import config as config_lib
from dpoq_jax.config import names


def apply(config: Any, variant: str) -> Any:
  """Changes a config by the text after the colon of `--config=FILE.py:VARIANT`.

  Args:
    config: config as `get_config` returns it; it is changed in place.
    variant: any of these, separated by commas:

        system=NAME    scaled, joint, separate: an onion, trained with these gradients
                       individual: a network of one precision
                       shared: one float kernel, rounded for each precision (AdaBits)
                       shared_floor: the same, floored
                       truncated: a network trained at the highest of the bits, whose weights are
                       truncated to the others afterwards
        bits=2-4-8     the bit list; bits=32,activations=32 is the float network
        activations=2  bits of the activations; activations=match: those of the weights
        merge=vanilla  how paths merge: psbn (precision-shift batch normalisation) or vanilla
        model=vgg11    the model: resnet8, resnet20, vgg11, mobilenetv2, resnet18 (for ImageNet), or
                       your own as MODULE:CLASS
        width=16       channels of the first stage
        smoke          the smallest network and run, at the two lowest precisions; the other parts
                       of the variant still hold

  Returns:
    `config`.

  Raises:
    ValueError: if the variant is made of anything else, or gives a part twice.
  """
  pairs: dict[str, str] = {}
  for pair in variant.split(',') if variant else ():
    key, _, setting = pair.partition('=')
    if key not in _VARIANTS:
      raise ValueError(f'variant {pair}: {_hint(key)}')
    if key in pairs:
      raise ValueError(f'variant {key}={setting}: {key}={pairs[key]} is given, too; give one.')
    pairs[key] = setting
  for key, change in _VARIANTS.items():
    if key in pairs:
      try:
        change(config, pairs[key])
      except ValueError as error:
        raise ValueError(f'variant {key}={pairs[key]}: {error}') from None
  return config


def _hint(key: str) -> str:
  """Returns what may have been meant by a part that there is not."""
  if re.fullmatch('[0-9]+', key):
    return 'commas separate the parts of a variant; a list is written bits=2-4-8.'
  return f'there is no such part; {names.hint(key, PARTS)}'


def _set_bits(config: Any, setting: str) -> None:
  """Sets the bit list, `2-4-8`."""
  config.quantization.bits = tuple(_number(bits) for bits in setting.split('-'))


def _set_activations(config: Any, setting: str) -> None:
  """Sets the bits of the activations: a number, or `match`, each precision's own."""
  quantization = config.quantization
  quantization.activation_bits = quantization.bits if setting == 'match' else _number(setting)


def _set_system(config: Any, setting: str) -> None:
  """Sets what is trained: an onion in a gradient mode, or a network to compare it with."""
  quantization = config.quantization
  if setting in get_args(config_lib.GradientMode):
    config.objective.mode = setting
  elif setting in _SHARED_KERNELS:
    config.objective.mode, quantization.sharing = 'joint', _SHARED_KERNELS[setting]
  elif setting == 'truncated':
    quantization.truncate_to = quantization.bits[:-1]
    quantization.bits = quantization.bits[-1:]
  elif setting != 'individual':
    raise ValueError(f'there is no such system; {names.hint(setting, _SYSTEMS)}')
  elif len(quantization.bits) > 1:
    raise ValueError(f'one precision, not bits={quantization.bits}.')


def _set_model(config: Any, setting: str) -> None:
  """Sets name and depth of the model, in its published width."""
  if setting not in _MODELS and not config_lib.OWN_MODEL.fullmatch(setting):
    raise ValueError(f'{names.hint(setting, _MODELS)} Your own is written MODULE:CLASS.')
  config.model.name, config.model.depth = _MODELS.get(setting, (setting, None))
  config.model.width = None


def _set_width(config: Any, setting: str) -> None:
  """Sets the channels of the first stage."""
  config.model.width = _number(setting)


def _set_merge(config: Any, setting: str) -> None:
  """Sets the merge; `config.validate` refuses others than those there are."""
  config.quantization.merge = setting


def _number(text: str) -> int:
  """Reads a whole number."""
  if not re.fullmatch('[0-9]{1,9}', text):
    raise ValueError(f'{text!r} is no whole number.')
  return int(text)


def _shrink(config: Any, setting: str) -> None:
  """Makes network and run as small as they get."""
  if setting:
    raise ValueError('smoke has no setting.')
  config.epochs = config.eval_every = config.log_every = 1
  config.data.batch_size = 8
  # Compiling takes most of the time, and grows with the number of paths.
  config.quantization.bits = config.quantization.bits[:2]
  if isinstance(config.quantization.activation_bits, tuple):
    config.quantization.activation_bits = config.quantization.activation_bits[:2]
  config.objective.loss_weights = config.objective.loss_weights[:2]
  if config.objective.companion_rings is not None:
    rings = min(config.objective.companion_rings, len(config.quantization.bits))
    config.objective.companion_rings = rings
  config.objective.teacher_start = 0.0
  # A model of the user's own need not have a width.
  if config.model.name in config_lib.MODELS or config.model.width is not None:
    config.model.width = 8
  if config.model.name == 'resnet':
    config.model.depth = 8
  config.optimizer.warmup_epochs = 0.0
  config.optimizer.decay_epochs = ()
  if config.data.image_size is not None:
    config.data.image_size, config.data.resize, config.data.workers = 32, 36, 0


_SHARED_KERNELS: Mapping[str, config_lib.Sharing] = {
  'shared': 'rounded',
  'shared_floor': 'floored',
}
_SYSTEMS = (*get_args(config_lib.GradientMode), 'individual', *_SHARED_KERNELS, 'truncated')
_MODELS: Mapping[str, tuple[config_lib.ModelName, int | None]] = {
  'resnet8': ('resnet', 8),
  'resnet20': ('resnet', 20),
  'vgg11': ('vgg', 11),
  'mobilenetv2': ('mobilenet', None),
  'resnet18': ('imagenet_resnet', 18),
}

# They apply in this order, whatever that of the text, since a later one may change what an earlier
# one set: a model sets the width, `smoke` the width and the bits, a system reads and sets the bits,
# and activations may be as wide as these.
_VARIANTS: Mapping[str, Callable[[Any, str], None]] = {
  'model': _set_model,
  'smoke': _shrink,
  'width': _set_width,
  'bits': _set_bits,
  'merge': _set_merge,
  'system': _set_system,
  'activations': _set_activations,
}
PARTS = tuple(_VARIANTS)
