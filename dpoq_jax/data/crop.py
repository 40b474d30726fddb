"""Encoded images to square crops: the random one of training, the central one of evaluation.

Nothing here imports JAX or TFDS: worker processes run it.
"""

import io
import math
from typing import Any

import numpy as np

# Of the random crop: its share of the image's area, and its width over its height, as in Inception
# (Szegedy et al. 2015) and every ImageNet recipe since.
AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
_TRIES = 10

# A JPEG is decoded at a half, a quarter or an eighth of its size where the crop stays this many
# times larger than what is made of it; that moves a pixel by 0.5 grey levels on average.
_DRAFT_GAP = 2


def random_crop_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
  """Draws the crop of training; the largest central one of an allowed ratio if ten draws fail.

  Args:
    width: of the image, pixels.
    height: of the image, pixels.
    rng: of this example.

  Returns:
    (left, upper, right, lower).
  """
  for _ in range(_TRIES):
    area = rng.uniform(*AREA) * width * height
    ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
    w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    if 0 < w <= width and 0 < h <= height:
      left, upper = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
      return left, upper, left + w, upper + h
  w = min(width, max(1, round(height * RATIO[1])))
  h = min(height, max(1, round(width / RATIO[0])))
  left, upper = (width - w) // 2, (height - h) // 2
  return left, upper, left + w, upper + h


def training_crop(encoded: bytes, size: int, rng: np.random.Generator) -> np.ndarray:
  """Decodes an image and resizes a random crop of it (bilinear, with antialiasing).

  Args:
    encoded: of any kind that pillow reads.
    size: side of the result.
    rng: of this example; what is drawn from it depends on the image's size alone.

  Returns:
    uint8 [size, size, 3].

  Raises:
    Exception: whatever a broken image makes pillow raise.
  """
  from PIL import Image

  with Image.open(io.BytesIO(encoded)) as opened:
    check_size(opened)
    width, height = opened.size
    box = random_crop_box(width, height, rng)
    gap = _DRAFT_GAP * size
    wanted = (
      math.ceil(width * gap / (box[2] - box[0])),
      math.ceil(height * gap / (box[3] - box[1])),
    )
    # Does nothing to what is no JPEG, or is to be enlarged.
    opened.draft(None, wanted)
    across, down = opened.width / width, opened.height / height
    scaled = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    image = as_bytes(opened, channels=3)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=scaled))


def evaluation_crop(encoded: bytes, size: int, shorter_side: int) -> np.ndarray:
  """Decodes an image, resizes its shorter side and takes the centre.

  Args:
    encoded: of any kind that pillow reads.
    size: side of the result.
    shorter_side: of the resized image, at least `size`.

  Returns:
    uint8 [size, size, 3].

  Raises:
    Exception: whatever a broken image makes pillow raise.
  """
  from PIL import Image

  with Image.open(io.BytesIO(encoded)) as opened:
    check_size(opened)
    return np.asarray(central_crop(as_bytes(opened, channels=3), size, shorter_side))


def central_crop(image: Any, size: int, shorter_side: int) -> Any:
  """Resizes an image's shorter side (bilinear, with antialiasing) and takes the central square.

  Args:
    image: pillow's.
    size: side of the square.
    shorter_side: of the resized image, at least `size`.

  Returns:
    An image of pillow's.

  Raises:
    ValueError: if it is so long that it would have too many pixels then.
  """
  from PIL import Image

  short = min(image.size)
  # The longer side is rounded down, as torchvision does, whose accuracies ours are compared with.
  width, height = (shorter_side * side // short for side in image.size)
  if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
    # A line of pixels, a few hundred bytes of file, would take gigabytes.
    raise ValueError(f'{image.width} x {image.height} pixels: too long to resize.')
  left, upper = round((width - size) / 2), round((height - size) / 2)
  image = image.resize((width, height), Image.Resampling.BILINEAR)
  return image.crop((left, upper, left + size, upper + size))


def as_bytes(image: Any, channels: int) -> Any:
  """An image of pillow's as grey (one channel) or RGB (three), transparency dropped.

  Raises:
    ValueError: for pixels that have no range of their own.
  """
  from PIL import Image

  if image.mode.startswith('I;16'):
    # Pillow would cut all values above 255 down to that.
    image = Image.fromarray((np.asarray(image, np.uint16) // 257).astype(np.uint8))
  elif image.mode in ('I', 'F'):
    raise ValueError(f'pixels of mode {image.mode} have no range of their own: give 8 or 16 bits.')
  return image.convert('L' if channels == 1 else 'RGB')


def check_size(image: Any) -> None:
  """Raises a ValueError if an image of pillow's is too large to decode."""
  from PIL import Image

  # Larger than what pillow warns of: not one to decode.
  if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
    raise ValueError(f'{image.width} x {image.height} pixels: too large to decode.')
