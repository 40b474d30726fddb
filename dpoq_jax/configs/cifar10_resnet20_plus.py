"""Trains ResNet-20 on CIFAR-10 at 2, 4, 8 and 16 bits by the paper's schedule and the recipe.

    dpoq train --config=cifar10_resnet20_plus --workdir=DIR

What `cifar10_resnet20` trains, with what `config.recipe` changes: the weight quantizer,
companions of every ring at 8 bits, twice the learning rate. Not in the paper.

Expected top-1 (%): of 200 epochs not yet measured. 20 epochs by `cifar10_resnet8_cpu_plus` with 20
layers, a cosine schedule from twice this rate, at 2, 4 and 8 bits, gave from one seed
(`onion, the recipe` in results/gpu/long/RECIPE.csv):

    weight bits      2      4      8
                 86.98  88.91  89.44

Cost: 200 epochs, in which four companions are trained beside the four paths: meant for a GPU.
"""

from typing import Any

from dpoq_jax.config import recipe, variants
from dpoq_jax.configs import cifar10_resnet20


def get_config(variant: str = '') -> Any:
  """Returns the config of the run; `variants.apply` says what a variant may be."""
  return variants.apply(recipe.apply(cifar10_resnet20.get_config()), variant)
