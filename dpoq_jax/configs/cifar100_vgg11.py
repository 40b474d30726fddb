"""Trains VGG-11 on CIFAR-100 at 4, 5, 6 and 7 bits by the paper's schedule (section 4.2).

    dpoq train --config=cifar100_vgg11 --workdir=DIR

Expected top-1 (%), the paper's Table 2, activations of 4 bits, ensembles in parentheses, individual
networks beneath; not yet reproduced here:

    weight bits              4              5              6              7
    DPOQ                 70.64  71.26 (71.14)  71.49 (71.35)  71.47 (71.42)
    individual           70.72          71.22          71.39          71.31

Cost: as `cifar10_vgg11.py`, 153 M multiply-accumulates a path; all but the data is its.
"""

from typing import Any

from dpoq_jax.configs import cifar10_vgg11


def get_config(variant: str = '') -> Any:
  """Returns the config of the run; `variants.apply` says what a variant may be."""
  config = cifar10_vgg11.get_config(variant)
  config.data.name = 'cifar100'
  return config
