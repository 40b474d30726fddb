"""Trains ResNet-20 on CIFAR-10 at 2, 4, 8 and 16 bits by the paper's schedule (section 4.2).

    dpoq train --config=cifar10_resnet20 --workdir=DIR

Expected top-1 (%), the paper's Table 2, activations of 2 bits, individual networks beside it; not
yet reproduced here:

    weight bits                      2      4      8      16 (individual: fp32)
    DPOQ                         87.43  90.07  91.08  91.34
    individual                   88.27  89.84  89.98  90.13

Those activations: `cifar10_resnet20:activations=2`; the default here is 8 bits. The
individual network at 4 bits: `:bits=4`; the float one: `:bits=32,activations=32`.

Cost: 200 epochs of 50,000 images through four paths of 41 M multiply-accumulates (forward). That is
31 hours on two CPU cores, at the 90 images/s of `results/README.md`: meant for a GPU.
"""

from typing import Any

from dpoq_jax import config as config_lib
from dpoq_jax.config import variants


def get_config(variant: str = '') -> Any:
  """Returns the config of the run; `variants.apply` says what a variant may be."""
  config = config_lib.get_config()
  config.epochs = 200
  config.eval_every = 5
  config.log_every = 100
  config.data.name = 'cifar10'
  config.data.batch_size = 128
  config.data.pad = 4
  config.data.flip = True
  config.model.depth = 20
  config.optimizer.learning_rate = 0.1
  config.optimizer.schedule = 'steps'
  config.optimizer.decay_epochs = (100.0, 150.0, 180.0)
  config.optimizer.warmup_epochs = 0.0
  return variants.apply(config, variant)
