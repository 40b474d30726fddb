"""Defines residual networks for 224x224 images (He et al., arXiv:1512.03385): 18, 34, 50 layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dpoq_jax.core import layers, quantizers
from dpoq_jax.core.quantizers import Activation
from dpoq_jax.core.spec import PathSpec

# Blocks of each of the four stages; from 50 layers on they are bottlenecks.
STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


class Block(nn.Module):
  """Adds two 3x3 convolutions, or 1x1, 3x3 and 1x1, to a shortcut.

  Where shapes change the shortcut is a quantized 1x1 convolution.

  A bottleneck has its stride in the 3x3 convolution (version 1.5) and four times as many channels
  at its end.
  """

  spec: PathSpec
  features: int
  stride: int = 1
  bottleneck: bool = False

  @nn.compact
  def __call__(self, x: Activation, train: bool) -> Activation:
    """Maps [batch, height, width, channels] to [batch, height', width', channels']."""
    strides = (self.stride, self.stride)
    out = 4 * self.features if self.bottleneck else self.features
    if self.bottleneck:
      convolutions = (
        (self.features, (1, 1), (1, 1)),
        (self.features, (3, 3), strides),
        (out, (1, 1), (1, 1)),
      )
    else:
      convolutions = ((self.features, (3, 3), strides), (out, (3, 3), (1, 1)))
    y, normalised = x, x.code
    for number, (features, kernel_size, step) in enumerate(convolutions, start=1):
      is_last = number == len(convolutions)
      normalised = layers.ConvNorm(
        self.spec, features, kernel_size, step, ends_block=is_last, name=f'conv{number}'
      )(y, train)
      if not is_last:
        y = layers.PACT(self.spec, name=f'pact{number}')(normalised)
    shortcut = x.value
    if self.stride > 1 or x.code.shape[-1] != out:
      shortcut = layers.ConvNorm(self.spec, out, (1, 1), strides, name='shortcut')(x, train)
    return layers.PACT(self.spec, name=f'pact{len(convolutions)}')(normalised + shortcut)


class ImageNetResNet(nn.Module):
  """Computes one path of a ResNet: 7x7 stem, max-pooling, four stages, a classifier.

  With 1,000 classes on a 224x224 image, in parameters and multiply-accumulates: ResNet-18 11.7 M
  and 1.8 G, ResNet-34 21.8 M and 3.7 G, ResNet-50 25.6 M and 4.1 G.

  Attributes:
    spec: the path; by default the float network.
    num_classes: outputs of the classifier, which is float and one for each precision.
    depth: one of `STAGES`.
    width: channels of the first stage; each further one has twice as many.
  """

  spec: PathSpec = PathSpec()
  num_classes: int = 10
  depth: int = 18
  width: int = 64

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """Maps uint8 images [batch, height, width, channels] to logits [batch, num_classes]."""
    x = quantizers.image_codes(images, self.spec.options.parameter_dtype)
    y = layers.ConvNorm(self.spec, self.width, (7, 7), strides=(2, 2), name='stem')(x, train)
    x = layers.PACT(self.spec, name='stem_pact')(y)
    # Codes keep the order of values, and none is below the 0 of the padding.
    code = jnp.pad(x.code, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = Activation(nn.max_pool(code, (3, 3), strides=(2, 2)), x.scale)
    for stage, blocks in enumerate(STAGES[self.depth]):
      for block in range(blocks):
        stride = 2 if stage > 0 and block == 0 else 1
        name = f'stage{stage + 1}_block{block + 1}'
        features = self.width * 2**stage
        x = Block(self.spec, features, stride, self.depth >= 50, name=name)(x, train)
    features = jnp.mean(x.value, axis=(1, 2))
    dtype = self.spec.options.parameter_dtype
    return nn.Dense(self.num_classes, param_dtype=dtype, name='head')(features)
