"""BitOPs of a network that is counted by hand."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from dpoq_jax import models
from dpoq_jax.core.spec import Laterals, LayerOptions, Merge
from dpoq_jax.network import costs
from dpoq_jax.network.companions import Companions
from dpoq_jax.network.onion_network import Onion
from dpoq_jax.network.shared_kernels import SharedNetwork
from dpoq_jax.nn import PACT, ConvNorm, PathSpec, image_codes
from tests.tiny_model import TinyNet

# TinyNet of width 4 on 8x8 images of 3 channels:
#
# stem: 3x3 kernel of 3 channels at each of 8x8 positions, 4 features: 9 * 3 * 64 * 4.
STEM = 6_912
# conv: strides of 2, so 4x4 positions; 3x3 kernel of 4 channels, 8 features: 9 * 4 * 16 * 8.
CONV = 4_608
# A path hands up what both normalise, 8x8x4 and 4x4x8 numbers: one multiply-add each to merge.
LATERAL = 256 + 128
# head: 4x4x8 features to 10 classes.
HEAD = 1_280

SHAPE = (8, 8, 3)


def onion(bits: tuple[int, ...], activation_bits: Any = 8, **options: Any) -> Onion:
  return Onion(TinyNet(width=4), bits, activation_bits, LayerOptions(**options))


def test_a_path_has_the_multiply_adds_counted_by_hand():
  cost = costs.path_cost(onion((2, 4)), SHAPE, batch_size=3)
  assert cost.multiply_accumulates == STEM + CONV + HEAD
  # Kernels, scale and bias of two normalisations, classifier with its bias.
  assert cost.parameters == 9 * 3 * 4 + 9 * 4 * 8 + 2 * (4 + 8) + HEAD + 10
  assert cost.handed_up == LATERAL
  assert [each.of_pixels for each in cost.convolutions] == [True, False]


@pytest.mark.parametrize(
  ('activation_bits', 'convolutions'),
  [
    # Rings of 2, 2 and 4 bits. The stem reads 8-bit pixels, conv the path's activations.
    # Of 8 bits: 8 * (6912 + 4608) = 92160 a weight bit; times 2, 2 + 2, 2 + 2 + 4.
    (8, [184_320, 368_640, 737_280]),
    # Of 2 bits: 8 * 6912 + 2 * 4608 = 64512 a weight bit; times 2, 4, 8.
    (2, [129_024, 258_048, 516_096]),
    # Of 2, 4, 8 bits: 64512, 8 * 6912 + 4 * 4608 = 73728, 92160 a bit of ring 1, 2, 3:
    # 2 * 64512; + 2 * 73728 = 276480; + 4 * 92160 = 645120.
    ((2, 4, 8), [129_024, 276_480, 645_120]),
  ],
)
def test_bitops_are_those_counted_by_hand(activation_bits, convolutions):
  found = costs.bitops(onion((2, 4, 8), activation_bits), SHAPE)
  assert [each.convolutions for each in found] == convolutions
  # Path 2 merges what path 1 hands up, path 3 that of both: 0, 1, 1 + 2 times 384 * 8 * 8.
  assert [each.laterals for each in found] == [0, 24_576, 73_728]
  assert [each.total for each in found] == [
    convolutions[0], convolutions[1] + 24_576, convolutions[2] + 73_728
  ]  # fmt: skip


def test_the_vanilla_merge_reads_the_path_below_alone():
  found = costs.bitops(onion((2, 4, 8), merge=Merge.VANILLA), SHAPE)
  assert [each.laterals for each in found] == [0, 24_576, 2 * 24_576]


def test_what_is_float_has_32_bits_and_pixels_have_8():
  (alone,) = costs.bitops(onion((32,), 32), SHAPE)
  # 32 * 8 * 6912 + 32 * 32 * 4608.
  assert alone == (6_488_064, 0)
  floats = costs.bitops(onion((2, 4), 32), SHAPE)
  # A weight bit: 8 * 6912 + 32 * 4608 = 202752; times 2 and 4. Laterals: 384 * 32 * 32.
  assert floats == ((405_504, 0), (811_008, 393_216))


def test_shared_kernels_start_anew_and_companions_cost_nothing():
  shared = SharedNetwork((onion((2,), 2), onion((4,), 4)), nested=False)
  # 2 * (8 * 6912 + 2 * 4608) and 4 * (8 * 6912 + 4 * 4608); nothing is merged.
  assert costs.bitops(shared, SHAPE) == ((129_024, 0), (294_912, 0))
  # Without the stem, 4 x 4 bits over 2 x 2 are 4.
  two, four = (each.convolutions for each in costs.bitops(shared, SHAPE))
  assert (four - 4 * 8 * STEM) == 4 * (two - 2 * 8 * STEM)
  network = onion((2, 4))
  assert costs.bitops(Companions(network, (8,)), SHAPE) == costs.bitops(network, SHAPE)
  other: Any = TinyNet()
  with pytest.raises(TypeError, match='TinyNet: it is not known'):
    costs.bitops(other, SHAPE)


def test_laterals_of_resnet_20():
  """By hand: 16 x 32 x 32 numbers of 7 layers, half as many of 6, a quarter of 6."""
  model = models.build('resnet', 10, {'depth': 20, 'width': 16})
  shape = (32, 32, 3)
  handed_up = 7 * 16_384 + 6 * 8_192 + 6 * 4_096
  assert costs.path_cost(Onion(model, (2, 4)), shape).handed_up == handed_up
  *_, highest = costs.bitops(Onion(model, (2, 4, 8, 16)), shape)
  # Each of 4 paths reads all below it: 0 + 1 + 2 + 3.
  assert highest.laterals == 6 * handed_up * 8 * 8
  assert highest.laterals / highest.convolutions == pytest.approx(0.014, abs=0.0005)
  # At the ends of the nine blocks alone.
  ends = Onion(model, (2, 4), options=LayerOptions(laterals=Laterals.BLOCK_ENDS))
  assert costs.path_cost(ends, shape).handed_up == 3 * (16_384 + 8_192 + 4_096)
  # As JAX merges, in float32.
  assert 16 * highest.laterals / highest.convolutions == pytest.approx(0.22, abs=0.005)


@pytest.mark.parametrize(
  ('laterals', 'expected'), [(Laterals.EVERY_LAYER, LATERAL), (Laterals.BLOCK_ENDS, 128)]
)
def test_a_path_hands_up_what_running_it_gives(laterals: Laterals, expected: int):
  network = onion((2, 4), laterals=laterals)
  assert costs.path_cost(network, SHAPE).handed_up == expected
  images = jnp.zeros((2, *SHAPE), jnp.uint8)
  variables = network.init(jax.random.key(0), images)
  handed_up = network.run_path(variables, 0, images).laterals
  assert sum(leaf.size for leaf in jax.tree.leaves(handed_up)) == 2 * expected
  # 8 x 8 bits for each number of the one lower path.
  assert costs.bitops(network, SHAPE)[1].laterals == 64 * expected


def test_a_dense_on_all_positions_is_counted_at_each():
  class Mapped(nn.Module):
    spec: PathSpec = PathSpec()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
      x = PACT(self.spec)(ConvNorm(self.spec, 2, (1, 1))(image_codes(images), train))
      return jnp.mean(nn.Dense(3)(x.value), axis=(1, 2))

  cost = costs.path_cost(Onion(Mapped(), (2, 4)), (4, 4, 1))
  assert cost.multiply_accumulates == 16 * 1 * 2 + 16 * 2 * 3
