"""Tests of `dpoq_jax.data.augment`."""

import os
import pathlib
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpoq_jax.data import augment


def random_images(*shape: int) -> np.ndarray:
  return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def outcomes(image: np.ndarray, padding: int) -> list[bytes]:
  """Lists every result `pad_crop_flip` may have, by the definition, unflipped ones first."""
  height, width, _ = image.shape
  border = (padding, padding)
  padded = np.pad(image, (border, border, (0, 0)), constant_values=128)
  corners = range(2 * padding + 1)
  crops = [padded[row:, column:][:height, :width] for row in corners for column in corners]
  return [crop.tobytes() for crop in crops] + [crop[:, ::-1].tobytes() for crop in crops]


@pytest.mark.parametrize('shape', [(64, 6, 9, 3), (64, 8, 8, 1)])
def test_every_image_is_a_crop_of_its_own_padded_self(shape):
  images = random_images(*shape)
  augmented = augment.pad_crop_flip(jax.random.key(0), jnp.asarray(images), padding=2)
  chex.assert_shape(augmented, shape)
  chex.assert_type(augmented, jnp.uint8)
  for image, result in zip(images, np.asarray(augmented), strict=True):
    assert result.tobytes() in outcomes(image, padding=2)


def test_all_outcomes_are_equally_likely_and_independent():
  image = random_images(1, 5, 6, 2)
  expected = outcomes(image[0], padding=1)
  assert len(set(expected)) == 18
  count = 18_000
  batch = jnp.asarray(np.repeat(image, count, axis=0))
  augmented = np.asarray(augment.pad_crop_flip(jax.random.key(1), batch, padding=1))
  drawn = np.array([expected.index(result.tobytes()) for result in augmented])
  frequencies = np.bincount(drawn, minlength=18)
  # Binomial of mean 1000 and deviation 31: five of those.
  np.testing.assert_allclose(frequencies, 1000, atol=155)
  # Neighbours in a batch draw apart from one another: pairs agree as often as chance has them.
  np.testing.assert_allclose(np.mean(drawn[1:] == drawn[:-1]), 1 / 18, atol=0.009)


def test_padding_alone_and_flip_alone():
  images = random_images(32, 6, 6, 3)
  key = jax.random.key(2)
  cropped = np.asarray(augment.pad_crop_flip(key, jnp.asarray(images), padding=3, flip=False))
  flipped = np.asarray(augment.pad_crop_flip(key, jnp.asarray(images), padding=0))
  for image, crop, flip in zip(images, cropped, flipped, strict=True):
    assert crop.tobytes() in outcomes(image, padding=3)[:49]
    assert flip.tobytes() in outcomes(image, padding=0)
  assert 0 < np.sum(np.any(flipped != images, axis=(1, 2, 3))) < 32


def test_neither_is_the_identity():
  images = random_images(4, 8, 8, 3)
  same = augment.pad_crop_flip(jax.random.key(3), jnp.asarray(images), padding=0, flip=False)
  chex.assert_trees_all_equal(same, images)


def test_the_result_follows_from_the_key_under_jit_too():
  images = jnp.asarray(random_images(16, 8, 8, 3))
  jitted = jax.jit(augment.pad_crop_flip)
  first, second = (augment.pad_crop_flip(jax.random.key(seed), images) for seed in (4, 5))
  chex.assert_trees_all_equal(jitted(jax.random.key(4), images), first)
  assert np.any(first != second)


SHARDED = """
import sys
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from dpoq_jax.data import augment

assert jax.device_count() == 4
images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), np.uint8)
key = jax.random.key(6)
step = jax.jit(augment.pad_crop_flip)
single = np.asarray(step(key, jax.device_put(images, jax.devices()[0])))
for axis_type in (AxisType.Auto, AxisType.Explicit):
  mesh = jax.make_mesh((4,), ('data',), axis_types=(axis_type,))
  with jax.set_mesh(mesh):
    sharding = NamedSharding(mesh, PartitionSpec('data'))
    sharded = step(key, jax.device_put(images, sharding))
    assert sharded.sharding.is_equivalent_to(sharding, 4), sharded.sharding
    np.testing.assert_array_equal(np.asarray(sharded), single)
"""


def test_a_batch_on_four_devices_is_augmented_as_on_one():
  flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count=4'
  environment = os.environ | {'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'}
  root = pathlib.Path(__file__).parents[2]
  subprocess.run([sys.executable, '-c', SHARDED], check=True, env=environment, cwd=root)


@pytest.mark.parametrize(
  ('images', 'padding', 'message'),
  [
    (np.zeros((2, 8, 8, 3), np.float32), 4, r'images are float32\[2, 8, 8, 3\]'),
    (np.zeros((8, 8, 3), np.uint8), 4, r'images are uint8\[8, 8, 3\]'),
    (np.zeros((2, 8, 8, 3), np.uint8), -1, 'padding=-1'),
  ],
)
def test_refuses(images, padding, message):
  with pytest.raises(ValueError, match=message):
    augment.pad_crop_flip(jax.random.key(0), images, padding=padding)
