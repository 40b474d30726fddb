"""Resizes decoded images to what a network takes, as evaluation and `predict` do.

Nothing here imports JAX or TFDS: worker processes run it, and an ONNX export has a copy of it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
  from PIL import Image

# Pixels of an image after its shorter side was resized: one that is long is cut only then.
_MOST_RESIZED = 2**26


def fitted(image: 'Image.Image', shape: Sequence[int], shorter_side: int | None) -> np.ndarray:
  """Returns the pixels of a decoded image in the shape that a network takes.

  Args:
    image: decoded image, grey or RGB.
    shape: (height, width, channels).
    shorter_side: shorter side to which it is resized before its centre is taken, pixels; None
      resizes it to `shape`, whatever its proportions.

  Returns:
    uint8 [height, width, channels].
  """
  from PIL import Image

  height, width, _ = shape
  if shorter_side:
    image = central_crop(image, height, shorter_side)
  elif image.size != (width, height):
    image = image.resize((width, height), Image.Resampling.BILINEAR)
  return np.asarray(image).reshape(shape)


def central_crop(image: 'Image.Image', size: int, shorter_side: int) -> 'Image.Image':
  """Resizes an image's shorter side (bilinear, with antialiasing) and takes the central square.

  Args:
    image: decoded image.
    size: side of the square, pixels.
    shorter_side: shorter side of the resized image, pixels, at least `size`.

  Raises:
    ValueError: if the image is so long that it would have too many pixels after resizing.
  """
  from PIL import Image

  short = min(image.size)
  # The longer side is rounded down as in torchvision, whose accuracies ours are compared with.
  width, height = (shorter_side * side // short for side in image.size)
  if width * height > _MOST_RESIZED:
    # A file of a few hundred bytes that holds one line of pixels would take gigabytes.
    raise ValueError(f'{image.width} x {image.height} pixels: too long to resize.')
  left, upper = round((width - size) / 2), round((height - size) / 2)
  image = image.resize((width, height), Image.Resampling.BILINEAR)
  return image.crop((left, upper, left + size, upper + size))
