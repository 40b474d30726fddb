"""Turns opened images into pixels a network can take: uint8, grey or RGB, of a bearable size.

Nothing here imports JAX or TFDS: worker processes run it.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
  from PIL import Image


def as_bytes(image: 'Image.Image', channels: int) -> 'Image.Image':
  """Converts an image to eight bits a channel, grey or RGB; its transparency is dropped.

  Args:
    image: image of any mode; pixels of 16 bits are scaled to eight.
    channels: channels of the result, 1 for grey or 3 for RGB.

  Raises:
    ValueError: for modes I and F, whose pixels have no fixed range.
  """
  from PIL import Image

  if image.mode.startswith('I;16'):
    # Pillow's own conversion would clip at 255 instead of scaling.
    image = Image.fromarray((np.asarray(image, np.uint16) // 257).astype(np.uint8))
  elif image.mode in ('I', 'F'):
    raise ValueError(f'pixels of mode {image.mode} have no range of their own: give 8 or 16 bits.')
  return image.convert('L' if channels == 1 else 'RGB')


def check_size(image: 'Image.Image') -> None:
  """Checks that an image does not have too many pixels to be decoded.

  Pillow itself only warns above `Image.MAX_IMAGE_PIXELS`, and raises above twice that number.

  Raises:
    ValueError: if it has more than `Image.MAX_IMAGE_PIXELS` pixels.
  """
  from PIL import Image

  if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
    raise ValueError(f'{image.width} x {image.height} pixels: too large to decode.')
