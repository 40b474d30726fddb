"""Trains VGG-11 on CIFAR-10 at 4, 5, 6 and 7 bits by the paper's schedule (section 4.2).

    dpoq train --config=cifar10_vgg11 --workdir=DIR

Expected top-1 (%), the paper's Table 2, activations of 4 bits, ensembles in parentheses, individual
networks beneath; not yet reproduced here:

    weight bits              4              5              6              7
    DPOQ                 92.14  92.46 (92.44)  92.57 (92.45)  92.58 (92.49)
    individual           92.10          92.18          92.49          92.46

The individual network at 4 bits: `cifar10_vgg11:bits=4`; the float one, which the table
does not have: `:bits=32,activations=32`.

Cost: 200 epochs of 50,000 images through four paths of 153 M multiply-accumulates (forward), 3.8
times as many as `cifar10_resnet20.py`, whose schedule this is: meant for a GPU.
"""

from typing import Any

from dpoq_jax.config import variants
from dpoq_jax.configs import cifar10_resnet20


def get_config(variant: str = '') -> Any:
  """Returns the config of the run; `variants.apply` says what a variant may be."""
  config = cifar10_resnet20.get_config('model=vgg11,bits=4-5-6-7,activations=4')
  return variants.apply(config, variant)
