"""Defines residual networks for small images: ResNet-(6n+2) of He et al. (arXiv:1512.03385)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dpoq_jax.core import layers, quantizers
from dpoq_jax.core.quantizers import Activation
from dpoq_jax.core.spec import PathSpec


class BasicBlock(nn.Module):
  """Adds two 3x3 convolutions to an identity shortcut, subsampled and zero-padded at a stride."""

  spec: PathSpec
  features: int
  stride: int = 1

  @nn.compact
  def __call__(self, x: Activation, train: bool) -> Activation:
    """Maps [batch, height, width, channels] to [batch, height', width', features]."""
    strides = (self.stride, self.stride)
    y = layers.ConvNorm(self.spec, self.features, strides=strides, name='conv1')(x, train)
    y = layers.PACT(self.spec, name='pact1')(y)
    y = layers.ConvNorm(self.spec, self.features, ends_block=True, name='conv2')(y, train)
    shortcut = x.value[:, :: self.stride, :: self.stride]
    missing = self.features - shortcut.shape[-1]
    shortcut = jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))
    return layers.PACT(self.spec, name='pact2')(y + shortcut)


class CifarResNet(nn.Module):
  """Computes one path of a ResNet of depth 6n+2: a stem, three stages of n blocks, a classifier.

  ResNet-20 of width 16 has 0.27 M parameters and 41 M multiply-accumulates on a 32x32 image.

  Attributes:
    spec: the path; by default the float network.
    num_classes: outputs of the classifier, which is float and one for each precision.
    depth: 6n+2, weighted layers.
    width: channels of the first stage; the second and third have 2 and 4 times as many.
  """

  spec: PathSpec = PathSpec()
  num_classes: int = 10
  depth: int = 20
  width: int = 16

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """Maps uint8 images [batch, height, width, channels] to logits [batch, num_classes].

    Raises:
      ValueError: unless depth is 6n+2.
    """
    blocks, rest = divmod(self.depth - 2, 6)
    if rest or blocks < 1:
      raise ValueError(f'depth={self.depth}: a CIFAR ResNet has 6n+2 layers, from 8 up')
    x = quantizers.image_codes(images, self.spec.options.parameter_dtype)
    x = layers.ConvNorm(self.spec, self.width, name='stem')(x, train)
    x = layers.PACT(self.spec, name='stem_pact')(x)
    for stage in range(3):
      for block in range(blocks):
        stride = 2 if stage > 0 and block == 0 else 1
        name = f'stage{stage + 1}_block{block + 1}'
        x = BasicBlock(self.spec, self.width * 2**stage, stride, name=name)(x, train)
    features = jnp.mean(x.value, axis=(1, 2))
    dtype = self.spec.options.parameter_dtype
    return nn.Dense(self.num_classes, param_dtype=dtype, name='head')(features)
