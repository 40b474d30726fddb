"""Trains ResNet-8 on CIFAR-10 for two CPU cores at 2, 4 and 8 bits, in a quarter of an hour.

    dpoq train --config=cifar10_resnet8_cpu --workdir=DIR

Expected top-1 (%), mean of two seeds ± deviation (`onion, DoReFa (the paper)` in
results/cpu/ABLATION.csv); another machine, or compiler, moves it as much as another seed does:

    weight bits             2             4             8
                 67.13 ± 0.71  70.24 ± 0.41  73.61 ± 0.05

A peak learning rate of 0.1 gave less, 0.05 still less (results/README.md).

Cost: 4 epochs at 106 to 411 images/s, ten minutes to half an hour on two cores.
"""

from typing import Any

from dpoq_jax import config as config_lib
from dpoq_jax.config import variants


def get_config(variant: str = '') -> Any:
  """Returns the config of the run; `variants.apply` says what a variant may be."""
  config = config_lib.get_config()
  config.epochs = 4
  config.eval_every = 1
  config.log_every = 50
  config.data.name = 'cifar10'
  config.data.batch_size = 128
  config.data.pad = 4
  config.data.flip = True
  config.quantization.bits = (2, 4, 8)
  config.optimizer.learning_rate = 0.2
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_epochs = 0.25
  return variants.apply(config, variant)
