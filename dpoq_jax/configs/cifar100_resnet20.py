"""Trains ResNet-20 on CIFAR-100 at 2, 4, 8 and 16 bits by the paper's schedule (section 4.2).

    dpoq train --config=cifar100_resnet20 --workdir=DIR

Expected top-1 (%), the paper's Table 1, activations of 8 bits; not yet reproduced here:

    weight bits                      2      4      8     16 (individual: fp32)   mean
    scaled gradients + PSBN      65.26  69.00  70.32  70.60                     68.80
    individual                   65.42  68.18  68.61  68.74                     67.74

Cost: as `cifar10_resnet20.py`, whose schedule this is.
"""

from typing import Any

from dpoq_jax.configs import cifar10_resnet20


def get_config(variant: str = '') -> Any:
  """Returns the config of the run; `variants.apply` says what a variant may be."""
  config = cifar10_resnet20.get_config(variant)
  config.data.name = 'cifar100'
  return config
