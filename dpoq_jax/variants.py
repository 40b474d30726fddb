"""Variants of a config: what the paper's tables vary, as short text after its file name."""

from typing import Any

from dpoq_jax import config as config_lib


def apply(config: Any, variant: str) -> Any:
  """Changes a config by the text after the colon of `--config=FILE.py:VARIANT`.

  Args:
    config: what `get_config` returns; changed in place.
    variant: comma-separated, of what the paper's tables vary:

        system=NAME    scaled, joint, separate: the onion and its gradients
                       individual: of one precision
                       shared: one float kernel, rounded for each precision (AdaBits)
                       shared_floor: the same, floored
                       truncated: trained at the highest of the bits, cut to the others afterwards
        bits=2-4-8     the precisions; bits=32,activations=32 is the float network
        activations=2  bits of the activations; activations=match: those of the weights
        merge=vanilla  or psbn
        model=vgg11    resnet8, resnet20, vgg11, mobilenetv2, resnet18 (the last for ImageNet), or
                       MODULE:CLASS, your own
        width=16       channels of the first stage
        smoke          a network and a run as small as they get, of the two lowest precisions; what
                       the variant says beside it holds

  Returns:
    `config`.

  Raises:
    ValueError: for anything else.
  """
  pairs: dict[str, str] = {}
  for pair in variant.split(',') if variant else ():
    key, _, pairs[key] = pair.partition('=')
  if unknown := set(pairs) - _VARIANTS.keys():
    raise ValueError(f'variant {unknown.pop()!r}: a variant is made of {", ".join(_VARIANTS)}.')
  for key, change in _VARIANTS.items():
    if key in pairs:
      change(config, pairs[key])
  return config


def _set_bits(config: Any, setting: str) -> None:
  config.quantization.bits = tuple(int(bits) for bits in setting.split('-'))


def _set_activations(config: Any, setting: str) -> None:
  if setting == 'match':
    config.quantization.match_activations = True
    return
  config.quantization.activation_bits = int(setting)
  config.quantization.clip_init = config_lib.default_clip(int(setting))


def _set_system(config: Any, setting: str) -> None:
  quantization = config.quantization
  if setting in ('scaled', 'joint', 'separate'):
    config.objective.mode = setting
  elif setting in ('shared', 'shared_floor'):
    config.objective.mode = 'joint'
    quantization.sharing = 'rounded' if setting == 'shared' else 'floored'
  elif setting == 'truncated':
    quantization.truncate_to = quantization.bits[:-1]
    quantization.bits = quantization.bits[-1:]
  elif setting != 'individual':
    raise ValueError(f'variant system={setting}: there is no such system.')
  elif len(quantization.bits) > 1:
    raise ValueError(f'variant system=individual: one precision, not bits={quantization.bits}.')


def _set_model(config: Any, setting: str) -> None:
  if setting not in _MODELS and not config_lib.OWN_MODEL.fullmatch(setting):
    raise ValueError(
      f'variant model={setting}: there are {", ".join(_MODELS)}; your own is written MODULE:CLASS.'
    )
  config.model.name, config.model.depth = _MODELS.get(setting, (setting, None))
  config.model.width = None


def _set_width(config: Any, setting: str) -> None:
  config.model.width = int(setting)


def _set_merge(config: Any, setting: str) -> None:
  config.quantization.merge = setting


def _shrink(config: Any, _: str) -> None:
  config.epochs = config.eval_every = config.log_every = 1
  config.data.batch_size = 8
  # Compiling takes longest, and grows with the number of paths.
  config.quantization.bits = config.quantization.bits[:2]
  config.objective.loss_weights = config.objective.loss_weights[:2]
  # An own model need not have a width.
  if config.model.name in config_lib.MODELS or config.model.width is not None:
    config.model.width = 8
  if config.model.name == 'resnet':
    config.model.depth = 8
  config.optimizer.warmup_epochs = 0.0
  config.optimizer.decay_epochs = ()
  if config.data.image_size is not None:
    config.data.image_size, config.data.resize, config.data.workers = 32, 36, 0


_MODELS = {
  'resnet8': ('resnet', 8),
  'resnet20': ('resnet', 20),
  'vgg11': ('vgg', 11),
  'mobilenetv2': ('mobilenet', None),
  'resnet18': ('imagenet_resnet', 18),
}

# In the order in which they apply: a model has a width, a smoke run may be given another width or
# other bits, a system splits the bits it is given.
_VARIANTS = {
  'model': _set_model,
  'smoke': _shrink,
  'width': _set_width,
  'bits': _set_bits,
  'activations': _set_activations,
  'merge': _set_merge,
  'system': _set_system,
}
