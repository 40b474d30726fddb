"""Trains ResNet-8 on CIFAR-10 for two CPU cores at 2, 4 and 8 bits, by the recipe.

    dpoq train --config=cifar10_resnet8_cpu_plus --workdir=DIR

What `cifar10_resnet8_cpu` trains, with what `config.recipe` changes: the weight quantizer,
companions of every ring at 8 bits, twice the learning rate. Not in the paper.

Expected top-1 (%), mean of three seeds ± deviation on two CPU cores (`onion, the recipe` in
results/cpu/ABLATION.csv):

    weight bits             2             4             8
                 72.86 ± 0.27  75.39 ± 0.43  76.87 ± 0.27

Cost: 4 epochs, in which three companions are trained beside the three paths.
"""

from typing import Any

from dpoq_jax.config import recipe, variants
from dpoq_jax.configs import cifar10_resnet8_cpu


def get_config(variant: str = '') -> Any:
  """Returns the config of the run; `variants.apply` says what a variant may be."""
  return variants.apply(recipe.apply(cifar10_resnet8_cpu.get_config()), variant)
