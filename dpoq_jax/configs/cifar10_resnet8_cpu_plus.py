"""Trains ResNet-8 on CIFAR-10 for two CPU cores at 2, 4 and 8 bits, by the recipe.

    dpoq train --config=cifar10_resnet8_cpu_plus --workdir=DIR

What `cifar10_resnet8_cpu` trains, with what `config.recipe` changes: the weight quantizer,
companions of the two lowest rings at 8 bits, twice the learning rate. Not in the paper.

Expected top-1 (%), mean of three seeds ± deviation on a GPU (`onion, the recipe` in
results/gpu/cpu/ABLATION.csv):

    weight bits             2             4             8
                 73.06 ± 0.51  75.16 ± 0.55  75.52 ± 0.37

Cost: 4 epochs, in which two companions are trained beside the three paths.
"""

from typing import Any

from dpoq_jax.config import recipe, variants
from dpoq_jax.configs import cifar10_resnet8_cpu


def get_config(variant: str = '') -> Any:
  """Returns the config of the run; `variants.apply` says what a variant may be."""
  return variants.apply(recipe.apply(cifar10_resnet8_cpu.get_config()), variant)
