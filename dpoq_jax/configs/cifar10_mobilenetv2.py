"""Trains MobileNetV2 on CIFAR-10 at 4, 6 and 8 bits by the paper's schedule (section 4.2).

    dpoq train --config=cifar10_mobilenetv2 --workdir=DIR

Expected top-1 (%), the paper's Table 2, activations of 8 bits, ensembles in parentheses, individual
networks beneath; not yet reproduced here:

    weight bits              4              6              8
    DPOQ                 89.03  89.05 (89.05)  89.06 (89.06)
    individual           88.97          89.18          89.10

The individual network at 4 bits: `cifar10_mobilenetv2:bits=4`; the float one, which the
table does not have: `:bits=32,activations=32`.

Cost: 200 epochs of 50,000 images through three paths of 88 M multiply-accumulates (forward), 1.6
times as many as `cifar10_resnet20.py`, whose schedule this is, a part of them in depthwise
convolutions, which are slow for their number: meant for a GPU.
"""

from typing import Any

from dpoq_jax.config import variants
from dpoq_jax.configs import cifar10_resnet20


def get_config(variant: str = '') -> Any:
  """Returns the config of the run; `variants.apply` says what a variant may be."""
  config = cifar10_resnet20.get_config('model=mobilenetv2,bits=4-6-8,activations=8')
  return variants.apply(config, variant)
