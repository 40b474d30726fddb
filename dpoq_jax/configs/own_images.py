"""Trains a network on your own images at 2, 4 and 8 bits, by the recipe.

    dpoq prepare folder NAME --source=PHOTOS
    dpoq train --config=own_images --config.data.name=NAME --workdir=DIR

ResNet-20 on images of 64 x 64; `own_images:size=32` takes smaller ones. From 128 pixels on,
`own_images:size=128`, it is the ResNet-18 of ImageNet; in between, the former. Any other part of a
variant may follow: `own_images:size=96,bits=2-4`.

A split that takes up to 2 GB once decoded (160,000 images of 64 x 64) is kept in memory, padded by
an eighth and flipped; a larger one is streamed, in random crops of each image.

With a few hundred images of a class or fewer, start from a network that comes with the library:

    --config=own_images:size=32,model=resnet8 --config.init_from=pretrained:cifar10_resnet8

Expected top-1: not measured, as it is that of your images. The recipe and the schedule are those of
CIFAR-10 (batches of 32 in place of 128, as sets are small, and a learning rate lower by as much);
they were not chosen on other images.

Cost: 60 epochs; in all, what `--dry-run` says, which depends on the number of images.
"""

import re
from typing import Any

from dpoq_jax import config as config_lib
from dpoq_jax.config import recipe, variants

_SIZE = re.compile(r'(?:^|,)size=([0-9]{1,5})(?=,|$)')
# From this size on a network whose stem shrinks images to a quarter; it would leave smaller ones
# too little to see.
_LARGE = 128


def get_config(variant: str = '') -> Any:
  """Returns the config of the run.

  Args:
    variant: `size=S`, pixels of a side, and what `variants.apply` takes.
  """
  given = _SIZE.search(variant)
  size = int(given[1]) if given else 64
  config = config_lib.get_config()
  config.epochs = 60
  config.eval_every = 5
  config.log_every = 20
  config.data.name = 'own_images'
  config.data.batch_size = 32
  config.data.image_size = size
  config.data.memory_gb = 2.0
  config.data.pad = size // 8
  config.data.flip = True
  if size < _LARGE:
    config.model.name, config.model.depth = 'resnet', 20
  else:
    config.model.name, config.model.depth = 'imagenet_resnet', 18
  config.model.width = None
  config.quantization.bits = (2, 4, 8)
  # The recipe doubles it.
  config.optimizer.learning_rate = 0.025
  config.optimizer.schedule = 'cosine'
  config.optimizer.warmup_epochs = 1.0
  return variants.apply(recipe.apply(config), _SIZE.sub('', variant).removeprefix(','))
