"""Defines MobileNetV2 (Sandler et al., arXiv:1801.04381), for ImageNet and for small images."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dpoq_jax.core import layers, quantizers
from dpoq_jax.core.quantizers import Activation
from dpoq_jax.core.spec import PathSpec

# Table 2 of the paper: expansion, channels, blocks, stride of the first block.
STAGES = (
  (1, 16, 1, 1),
  (6, 24, 2, 2),
  (6, 32, 3, 2),
  (6, 64, 4, 2),
  (6, 96, 3, 1),
  (6, 160, 3, 2),
  (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
  """Expands (1x1), convolves depthwise (3x3), projects (1x1), adds the input where shapes agree.

  The projection has no ReLU: its activation is signed.
  """

  spec: PathSpec
  features: int
  expansion: int
  stride: int = 1

  @nn.compact
  def __call__(self, x: Activation, train: bool) -> Activation:
    """Maps [batch, height, width, channels] to [batch, height', width', features]."""
    channels = x.code.shape[-1]
    hidden = self.expansion * channels
    y = x
    if self.expansion > 1:
      y = layers.ConvNorm(self.spec, hidden, (1, 1), name='expand')(y, train)
      y = layers.PACT(self.spec, name='expand_pact')(y)
    strides = (self.stride, self.stride)
    depthwise = layers.ConvNorm(self.spec, hidden, strides=strides, groups=hidden, name='depthwise')
    y = layers.PACT(self.spec, name='depthwise_pact')(depthwise(y, train))
    project = layers.ConvNorm(self.spec, self.features, (1, 1), ends_block=True, name='project')
    y = project(y, train)
    if self.stride == 1 and channels == self.features:
      y = y + x.value
    return layers.PACT(self.spec, signed=True, name='project_pact')(y)


class MobileNetV2(nn.Module):
  """Computes one path of MobileNetV2.

  For 32x32 images stem and first strided stage keep the resolution: 2.24 M parameters and 88 M
  multiply-accumulates with 10 classes. For 224x224 ones: 3.5 M and 300 M with 1,000.

  Attributes:
    spec: the path; by default the float network.
    num_classes: outputs of the classifier, which is float and one for each precision.
    width: channels of the stem; all others in proportion, rounded to multiples of 8.
    small_images: keep the resolution of stem and first strided stage.
  """

  spec: PathSpec = PathSpec()
  num_classes: int = 10
  width: int = 32
  small_images: bool = True

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    """Maps uint8 images [batch, height, width, channels] to logits [batch, num_classes]."""
    x = quantizers.image_codes(images, self.spec.options.parameter_dtype)
    stem = 1 if self.small_images else 2
    x = self._conv_pact(x, 'stem', self._channels(32), train, strides=(stem, stem))
    for stage, (expansion, channels, blocks, stride) in enumerate(STAGES, start=1):
      for block in range(1, blocks + 1):
        # A 32x32 image is strided from the third stage on.
        strided = block == 1 and not (self.small_images and stage == 2)
        x = InvertedResidual(
          self.spec,
          self._channels(channels),
          expansion,
          stride if strided else 1,
          name=f'stage{stage}_block{block}',
        )(x, train)
    x = self._conv_pact(x, 'last', max(1280, self._channels(1280)), train, kernel_size=(1, 1))
    features = jnp.mean(x.value, axis=(1, 2))
    dtype = self.spec.options.parameter_dtype
    return nn.Dense(self.num_classes, param_dtype=dtype, name='head')(features)

  def _conv_pact(
    self, x: Activation, name: str, features: int, train: bool, **options: Any
  ) -> Activation:
    y = layers.ConvNorm(self.spec, features, name=name, **options)(x, train)
    return layers.PACT(self.spec, name=f'{name}_pact')(y)

  def _channels(self, channels: int) -> int:
    """Scales a number of channels with the width, to a multiple of 8 at least 0.9 of that."""
    scaled = channels * self.width / 32
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded
