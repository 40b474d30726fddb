"""Offers the building blocks of a model of one's own: see docs/your_own_model.md."""

from dpoq_jax.core.layers import PACT, ConvNorm, OnionConv
from dpoq_jax.core.normalisation import PrecisionShiftBatchNorm
from dpoq_jax.core.quantizers import Activation, image_codes
from dpoq_jax.core.spec import PathSpec

__all__ = [
  'PACT',
  'Activation',
  'ConvNorm',
  'OnionConv',
  'PathSpec',
  'PrecisionShiftBatchNorm',
  'image_codes',
]
