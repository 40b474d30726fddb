"""A model whose second half each test writes, to try what models should not do."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dpoq_jax.core.spec import PathSpec
from dpoq_jax.nn import PACT, Activation, ConvNorm, image_codes


class Model(nn.Module):
  """Describes a path of a convolution of 6 channels, and of what is to be tried after it."""

  after: Callable[['Model', Activation, bool], Any]
  spec: PathSpec = PathSpec()
  num_classes: int = 3

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> Any:
    x = ConvNorm(self.spec, 6, name='stem')(image_codes(images), train)
    return self.after(self, PACT(self.spec, name='pact')(x), train)

  def conv(self, x: Any, train: bool, name: str = 'conv', **options: Any) -> jax.Array:
    return ConvNorm(self.spec, options.pop('features', 6), name=name, **options)(x, train)

  def logits(self, x: jax.Array) -> jax.Array:
    return nn.Dense(self.num_classes, name='head')(jnp.mean(x, axis=(1, 2)))
