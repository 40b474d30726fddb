"""Trains MobileNetV2 on CIFAR-100 at 4, 6 and 8 bits by the paper's schedule (section 4.2).

    dpoq train --config=cifar100_mobilenetv2 --workdir=DIR

Expected top-1 (%), the paper's Table 2, activations of 8 bits, ensembles in parentheses, individual
networks beneath; not yet reproduced here:

    weight bits              4              6              8
    DPOQ                 69.20  69.48 (69.30)  69.89 (69.55)
    individual           68.53          68.70          69.28

Cost: as `cifar10_mobilenetv2.py`, 88 M multiply-accumulates a path; all but the data is its.
"""

from typing import Any

from dpoq_jax.configs import cifar10_mobilenetv2


def get_config(variant: str = '') -> Any:
  """Returns the config of the run; `variants.apply` says what a variant may be."""
  config = cifar10_mobilenetv2.get_config(variant)
  config.data.name = 'cifar100'
  return config
