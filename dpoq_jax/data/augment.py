"""Augments batches on the device, inside the jitted training step: a random shift and a flip.

That is the augmentation of images that are all of one size (CIFAR). Streamed sets (ImageNet) get
their random crop on the host, while an image is decoded: `crop.training_crop`; only the flip of
those is done here.
"""

import jax
import jax.numpy as jnp

# Pixels enter a network as the integer `pixel - 128`, and a convolution pads with zeros: this pixel
# is that zero.
ZERO_PIXEL = 128


def pad_crop_flip(
  key: jax.Array, images: jax.Array, *, padding: int = 4, flip: bool = True
) -> jax.Array:
  """Shifts every image by its own random amount and mirrors it with probability one half.

  The usual CIFAR augmentation: pad every side, crop the original size at a random place, flip
  left to right. All draws are made for the whole batch from `key`, so a batch sharded over
  several devices gets the same images as on one.

  Args:
    key: PRNG key; the result depends on `key` and `images` alone.
    images: uint8 [batch, height, width, channels].
    padding: pixels of value 128 added on every side before the crop; 0 crops nothing.
    flip: whether to mirror images at random.

  Returns:
    uint8 [batch, height, width, channels].

  Raises:
    ValueError: if `images` is not a uint8 batch or `padding` is negative.
  """
  if images.ndim != 4 or images.dtype != jnp.uint8:
    raise ValueError(
      f'images are {images.dtype}{list(images.shape)}; augmentation takes uint8 '
      '[batch, height, width, channels].'
    )
  if padding < 0:
    raise ValueError(f'padding={padding}: padding is 0 or more pixels.')
  crop_key, flip_key = jax.random.split(key)
  if padding:
    images = _random_crop(crop_key, images, padding)
  if flip:
    mirrored = jax.random.bernoulli(flip_key, shape=(images.shape[0], 1, 1, 1))
    images = jnp.where(mirrored, images[:, :, ::-1], images)
  return images


def _random_crop(key: jax.Array, images: jax.Array, padding: int) -> jax.Array:
  """Pads every image and crops it to its size again, at a random corner of its own."""
  batch, height, width, _ = images.shape
  border = (padding, padding)
  padded = jnp.pad(images, ((0, 0), border, border, (0, 0)), constant_values=ZERO_PIXEL)
  corners = jax.random.randint(key, (batch, 2), 0, 2 * padding + 1)
  ys = corners[:, :1] + jnp.arange(height)[None]
  xs = corners[:, 1:] + jnp.arange(width)[None]
  # As fast as a vmapped dynamic slice, which does not work on a mesh with explicit axes.
  cropped = jnp.take_along_axis(padded, ys[:, :, None, None], axis=1)
  return jnp.take_along_axis(cropped, xs[:, None, :, None], axis=2)
