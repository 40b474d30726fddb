"""Runs one network at many precisions: dynamic precision onion quantization in JAX.

The public names are imported on first use, so that `--help` and tools that need only the integers
start without JAX. `dpoq_jax.nn` holds the building blocks of a model of one's own.
"""

from etils import epy

__version__ = '0.1.0'

with epy.lazy_api_imports(globals()):
  from dpoq_jax import nn, onion
  from dpoq_jax.classifier import Classifier, load, load_pretrained
  from dpoq_jax.core.spec import LayerOptions, Merge
  from dpoq_jax.inference.cascade import Cascade
  from dpoq_jax.inference.operating_point import OperatingPoint
  from dpoq_jax.models.resnet import CifarResNet
  from dpoq_jax.network.onion_network import Onion
