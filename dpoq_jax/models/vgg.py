"""Defines VGG with batch normalisation for small images (Simonyan, Zisserman, arXiv:1409.1556).

As usually adapted to 32x32: the convolutions of configuration A, five times max-pooled to 1x1, and
one linear classifier in place of the three large ones.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dpoq_jax.core import layers, quantizers
from dpoq_jax.core.quantizers import Activation
from dpoq_jax.core.spec import PathSpec

# Convolutions of each stage, in channels; a 2x2 max-pooling after every stage.
STAGES = {11: ((64,), (128,), (256, 256), (512, 512), (512, 512))}


class Vgg(nn.Module):
  """Computes one path of VGG-11: eight 3x3 convolutions, a classifier.

  9.2 M parameters and 153 M multiply-accumulates on a 32x32 image.

  Attributes:
    spec: the path; by default the float network.
    num_classes: outputs of the classifier, which is float and one for each precision.
    depth: 11.
    width: channels of the first stage; the others in proportion.
  """

  spec: PathSpec = PathSpec()
  num_classes: int = 10
  depth: int = 11
  width: int = 64

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """Maps uint8 images [batch, height, width, channels] to logits [batch, num_classes]."""
    x = quantizers.image_codes(images, self.spec.options.parameter_dtype)
    for stage, channels in enumerate(STAGES[self.depth], start=1):
      for number, features in enumerate(channels, start=1):
        name = f'stage{stage}_conv{number}'
        y = layers.ConvNorm(
          self.spec, features * self.width // 64, ends_block=number == len(channels), name=name
        )(x, train)
        x = layers.PACT(self.spec, name=f'{name}_pact')(y)
      if min(x.code.shape[1:3]) > 1:
        # Codes keep the order of values.
        x = Activation(nn.max_pool(x.code, (2, 2), strides=(2, 2)), x.scale)
    features = jnp.mean(x.value, axis=(1, 2))
    dtype = self.spec.options.parameter_dtype
    return nn.Dense(self.num_classes, param_dtype=dtype, name='head')(features)
