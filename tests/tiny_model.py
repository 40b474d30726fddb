"""Defines the network that the tests train where they are about something else."""

import flax.linen as nn
import jax

from dpoq_jax.core import layers, quantizers
from dpoq_jax.core.spec import PathSpec


class TinyNet(nn.Module):
  """Describes one path of two convolutions and a classifier, which compiles in seconds.

  It learns scikit-learn's digits to three quarters in 44 steps of 64.

  Attributes:
    spec: the path.
    num_classes: outputs of the classifier.
    width: channels of the first convolution; the second has twice as many.
  """

  spec: PathSpec = PathSpec()
  num_classes: int = 10
  width: int = 4

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """Returns the logits [batch, num_classes] of uint8 images [batch, height, width, channels]."""
    dtype = self.spec.options.parameter_dtype
    x = quantizers.image_codes(images, dtype)
    x = layers.ConvNorm(self.spec, self.width, name='stem')(x, train)
    x = layers.PACT(self.spec, name='stem_pact')(x)
    conv = layers.ConvNorm(self.spec, 2 * self.width, strides=(2, 2), ends_block=True, name='conv')
    x = layers.PACT(self.spec, name='pact')(conv(x, train))
    # Not averaged over positions, from which so few layers would learn too little.
    features = x.value.reshape(images.shape[0], -1)
    return nn.Dense(self.num_classes, param_dtype=dtype, name='head')(features)
