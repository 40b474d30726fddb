"""Networks that are refused, each in one line."""

from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import pytest

from dpoq_jax import models
from dpoq_jax.core import layers, normalisation, quantizers
from dpoq_jax.core.spec import Laterals, LayerOptions, PathSpec
from dpoq_jax.network import onion_network

CLASSES = 5
IMAGES = jnp.zeros((8, 8, 8, 3), jnp.uint8)


class Unmarked(flax.linen.Module):
  """Describes a path of one convolution, which does not say where its blocks end."""

  spec: PathSpec = PathSpec()

  @flax.linen.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    x = quantizers.image_codes(images, self.spec.options.parameter_dtype)
    return jnp.mean(layers.ConvNorm(self.spec, CLASSES, name='conv')(x, train), axis=(1, 2))


class Unmerged(flax.linen.Module):
  """Describes a path whose convolution is followed by a normalisation of this kind, or by none."""

  normalise: type[normalisation.PrecisionShiftBatchNorm] | None
  spec: PathSpec = PathSpec()

  @flax.linen.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    x = quantizers.image_codes(images, self.spec.options.parameter_dtype)
    y = layers.OnionConv(self.spec, CLASSES, name='conv')(x)
    if self.normalise is None:
      return jnp.mean(y.value, axis=(1, 2))
    return jnp.mean(self.normalise(self.spec, has_laterals=False)(y, train), axis=(1, 2))


@pytest.mark.parametrize(
  ('normalise', 'bits', 'message'),
  [
    (None, (2, 4), '^Unmerged has no ConvNorm, in whose normalisation paths meet: follow each'),
    (None, (2,), '^Unmerged has no ConvNorm'),
    (
      normalisation.PrecisionShiftBatchNorm,
      (2, 4),
      '^laterals=every_layer: no normalisation of Unmerged has has_laterals=True',
    ),
  ],
)
def test_paths_that_would_share_nothing_are_refused_with_the_reason(
  normalise: type[normalisation.PrecisionShiftBatchNorm] | None,
  bits: tuple[int, ...],
  message: str,
):
  with pytest.raises(ValueError, match=message):
    onion_network.Onion(Unmerged(normalise), bits).init(jax.random.key(0), IMAGES)


def test_a_model_without_an_end_of_a_block_is_refused():
  options = LayerOptions(laterals=Laterals.BLOCK_ENDS)
  with pytest.raises(ValueError, match='laterals=block_ends: no ConvNorm of Unmarked has ends_bl'):
    onion_network.Onion(Unmarked(), (2, 4), options=options).init(jax.random.key(0), IMAGES)
  # A single path shares nothing anyway.
  onion_network.Onion(Unmarked(), (2,), options=options).init(jax.random.key(0), IMAGES)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'bits': (4, 2)}, r'bits=\(4, 2\)'),
    ({'bits': (2, 20)}, r'ring 1 of bits=\(2, 20\)=18: give 1 to 16 bits, or 32'),
    ({'activation_bits': 0}, 'activation_bits=0'),
    (
      {'activation_bits': (2, 8)},
      r'activation_bits=\(2, 8\) needs one entry for each of bits=\(2,',
    ),
    ({'activation_bits': (17,)}, r'entry 0 of activation_bits=\(17,\)=17: give 1 to 16 bits'),
  ],
)
def test_impossible_networks_are_refused(changes: dict, message: str):
  with pytest.raises(ValueError, match=message):
    onion_network.Onion(models.CifarResNet(), **{'bits': (2,), **changes})


@pytest.mark.parametrize('model', [models.CifarResNet, flax.linen.Dense(3)])
def test_what_is_no_instance_of_a_model_is_refused(model: Any):
  with pytest.raises(TypeError, match=r'give an instance .* as CifarResNet\(depth=20\)'):
    onion_network.Onion(model, bits=(2,))


def test_bfloat16_refuses_what_it_would_round():
  options = LayerOptions(compute_dtype=jnp.bfloat16)
  with pytest.raises(ValueError, match='=12: bfloat16 holds integers of up to 8 bits'):
    onion_network.Onion(models.CifarResNet(), bits=(4, 16), options=options)
  onion_network.Onion(models.CifarResNet(), bits=(4, 8, 16), options=options)
  onion_network.Onion(models.CifarResNet(), bits=(32,), activation_bits=32, options=options)
