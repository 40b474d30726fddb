"""Builds the model that a config names: one of this library, or a class of one's own."""

from collections.abc import Mapping
import importlib
from typing import Any, assert_never, cast

import flax.linen as nn

from dpoq_jax import config as config_lib
from dpoq_jax.core.spec import PathSpec
from dpoq_jax.models.imagenet_resnet import ImageNetResNet
from dpoq_jax.models.mobilenet import MobileNetV2
from dpoq_jax.models.resnet import CifarResNet
from dpoq_jax.models.vgg import Vgg


def _class(name: config_lib.ModelName) -> type[nn.Module]:
  match name:
    case 'resnet':
      return CifarResNet
    case 'imagenet_resnet':
      return ImageNetResNet
    case 'vgg':
      return Vgg
    case 'mobilenet':
      return MobileNetV2
    case _:
      assert_never(name)


MODELS = {name: _class(name) for name in config_lib.MODELS}
"""The models of this library, by the name that a config gives."""


def build(model: str | type[nn.Module], num_classes: int, sizes: Mapping[str, Any]) -> nn.Module:
  """Builds the model of one path, as `Onion` takes it.

  Args:
    model: its class, or the name that a config gives: one of `MODELS`, or `MODULE:CLASS`.
    num_classes: outputs of its classifier.
    sizes: further attributes given to it, as `depth` and `width`.

  Raises:
    ValueError: if there is no such module, or no such Linen class in it, or it does not have these
      attributes.
  """
  name = model if isinstance(model, str) else model.__name__
  found: Any = (MODELS.get(model) or _import(model)) if isinstance(model, str) else model
  for attribute in ('spec', 'num_classes', *sizes):
    if attribute not in found.__dataclass_fields__:
      hint = ': leave it out (None).' if attribute in sizes else ', which every path is given.'
      raise ValueError(f'config.model.name={name}: the class has no attribute {attribute}{hint}')
  # The spec is a path's own, which an onion sets; a class need not have a default for it.
  return found(spec=PathSpec(), num_classes=num_classes, **sizes)


def _import(name: str) -> type[nn.Module]:
  module, _, attribute = name.partition(':')
  try:
    model: Any = getattr(importlib.import_module(module), attribute)
  except (ImportError, AttributeError) as error:
    raise ValueError(
      f'config.model.name={name}: {error}. The module is looked for where Python is started, and '
      'on PYTHONPATH.'
    ) from error
  if not (isinstance(model, type) and issubclass(model, nn.Module)):
    raise ValueError(f'config.model.name={name}: that is no class of Linen modules.')
  return cast('type[nn.Module]', model)
