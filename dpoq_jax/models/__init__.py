"""Networks of one path; an onion runs several of them."""

from collections.abc import Callable, Mapping
import functools
import importlib
from typing import Any

import flax.linen as nn

from dpoq_jax.models.imagenet_resnet import ImageNetResNet
from dpoq_jax.models.mobilenet import MobileNetV2
from dpoq_jax.models.resnet import CifarResNet
from dpoq_jax.models.vgg import Vgg

MODELS = {
  'resnet': CifarResNet,
  'imagenet_resnet': ImageNetResNet,
  'vgg': Vgg,
  'mobilenet': MobileNetV2,
}
"""By the name that a config gives."""


def build(name: str, sizes: Mapping[str, Any]) -> Callable[..., nn.Module]:
  """The model that a config names, as `Onion` takes it.

  Args:
    name: of `MODELS`, or `MODULE:CLASS`.
    sizes: attributes given to it beside `spec` and `num_classes`.

  Raises:
    ValueError: if there is no such module, or no such Linen class in it, or it does not have these
      attributes.
  """
  model: Any = MODELS.get(name) or _import(name)
  for attribute in ('spec', 'num_classes', *sizes):
    if attribute not in model.__dataclass_fields__:
      hint = ': leave it out (None).' if attribute in sizes else ', which every path is given.'
      raise ValueError(f'config.model.name={name}: the class has no attribute {attribute}{hint}')
  return functools.partial(model, **sizes)


def _import(name: str) -> Any:
  module, _, attribute = name.partition(':')
  try:
    model = getattr(importlib.import_module(module), attribute)
  except (ImportError, AttributeError) as error:
    raise ValueError(
      f'config.model.name={name}: {error}. The module is looked for where Python is started, and '
      'on PYTHONPATH.'
    ) from error
  if not (isinstance(model, type) and issubclass(model, nn.Module)):
    raise ValueError(f'config.model.name={name}: that is no class of Linen modules.')
  return model
