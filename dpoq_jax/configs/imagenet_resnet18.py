"""Trains ResNet-18 on ImageNet at 2, 4, 8 and 16 bits by the paper's schedule (section 4.2).

    dpoq train --config=imagenet_resnet18 --workdir=DIR
        --config.data.dir=TFDS_DIRECTORY --config.data.workers=CPU_CORES

Expected top-1 (%), the paper's Table 3, individual networks beside it; not yet reproduced here:

    weight bits                      2      4      6      8     16 (individual: fp32)
    DPOQ (2, 4, 8, 16)           64.2   67.1          69.6   70.2
    DPOQ (2, 4, 6, 8)            63.9   67.7   69.5   69.9
    individual                   64.5   68.7   69.11  69.6   69.4

The second row: `imagenet_resnet18:bits=2-4-6-8`; the individual network at 4 bits:
`:bits=4`; the float one: `:bits=32,activations=32`.

The data is TFDS's `imagenet2012`, in array_record format; images are streamed and decoded as they
are needed (random crops of 8 to 100 % of the area, resized to 224; in evaluation the shorter side
is resized to 256 and the central 224 taken).

Cost: 90 epochs of 1.28 M images through four paths of 1.8 G multiply-accumulates (forward), and
as many decoded JPEGs: meant for several GPUs, with the worker processes that keep them busy
(`python -m benchmarks.input_pipeline` measures one core's share).
"""

from typing import Any

from dpoq_jax import config as config_lib
from dpoq_jax.config import variants


def get_config(variant: str = '') -> Any:
  """Returns the config of the run; `variants.apply` says what a variant may be."""
  config = config_lib.get_config()
  config.epochs = 90
  config.eval_every = 5
  config.log_every = 100
  config.checkpoint_every = 1000
  config.data.name = 'imagenet2012'
  config.data.batch_size = 256
  config.data.image_size = 224
  config.data.resize = 256
  config.data.workers = 8
  config.data.pad = 0
  config.data.flip = True
  config.model.name = 'imagenet_resnet'
  config.model.depth = 18
  config.model.width = None
  config.optimizer.learning_rate = 0.1
  config.optimizer.weight_decay = 1e-4
  config.optimizer.schedule = 'steps'
  config.optimizer.decay_epochs = (30.0, 60.0)
  config.optimizer.warmup_epochs = 0.0
  return variants.apply(config, variant)
