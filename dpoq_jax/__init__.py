"""Dynamic precision onion quantization: one network, many precisions.

The public few are imported on first use, so that `--help` and tools that need only the integers
start without JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

from dpoq_jax.core.spec import LayerOptions, Merge

if TYPE_CHECKING:
  from dpoq_jax import onion
  from dpoq_jax.inference.cascade import Cascade
  from dpoq_jax.inference.operating_point import OperatingPoint
  from dpoq_jax.models.resnet import CifarResNet
  from dpoq_jax.network.onion_network import Onion

__version__ = '0.1.0'

_MODULES = {
  'Cascade': 'dpoq_jax.inference.cascade',
  'CifarResNet': 'dpoq_jax.models.resnet',
  'LayerOptions': 'dpoq_jax.core.layers',
  'Merge': 'dpoq_jax.core.layers',
  'Onion': 'dpoq_jax.network.onion_network',
  'OperatingPoint': 'dpoq_jax.inference.operating_point',
}
__all__ = ['Cascade', 'CifarResNet', 'LayerOptions', 'Merge', 'Onion', 'OperatingPoint', 'onion']


def __getattr__(name: str) -> Any:
  if name == 'onion':
    return importlib.import_module('dpoq_jax.onion')
  if name in _MODULES:
    return getattr(importlib.import_module(_MODULES[name]), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
