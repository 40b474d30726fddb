"""Cuts encoded images to squares: a random crop for training, the central one for evaluation.

These are the crops of streamed sets (ImageNet), made on the host while an image is decoded. The
random shift and flip of images in memory (CIFAR) happen on the device, in `augment`.

Nothing here imports JAX or TFDS: worker processes run it.
"""

import io
import math

import numpy as np

from dpoq_jax.data import decode, resize

# Bounds of the random crop: its share of the image's area, and its width over its height, as in
# Inception (Szegedy et al. 2015) and every ImageNet recipe since.
AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
_TRIES = 10

# A JPEG can be decoded at a half, a quarter or an eighth of its size, which is faster. That is done
# as long as the crop stays this many times larger than the result; it moves a pixel by 0.5 grey
# levels on average.
_DRAFT_GAP = 2


def random_crop_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
  """Draws the random crop of a training image.

  Area and ratio are drawn until a crop of them fits into the image; after ten that do not, it is
  the largest central crop of an allowed ratio.

  Args:
    width: width of the image, pixels.
    height: height of the image, pixels.
    rng: random generator of this example alone.

  Returns:
    (left, upper, right, lower), pixels.
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
    encoded: image file of a kind in `decode.FORMATS`.
    size: side of the result, pixels.
    rng: random generator of this example alone; what is drawn depends on the image's size only.

  Returns:
    uint8 [size, size, 3].

  Raises:
    ValueError: for an image of another kind, or with too many pixels.
    Exception: anything else that a broken image makes pillow raise.
  """
  from PIL import Image

  with decode.opened(io.BytesIO(encoded)) as opened:
    width, height = decode.upright_size(opened)
    box = random_crop_box(width, height, rng)
    gap = _DRAFT_GAP * size
    wanted = (
      math.ceil(width * gap / (box[2] - box[0])),
      math.ceil(height * gap / (box[3] - box[1])),
    )
    # Pillow ignores this for other kinds than JPEG, and never decodes to less than was asked for.
    opened.draft(None, wanted if opened.size == (width, height) else (wanted[1], wanted[0]))
    image = decode.decoded(opened, channels=3)
    across, down = image.width / width, image.height / height
    scaled = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=scaled))


def evaluation_crop(encoded: bytes, size: int, shorter_side: int) -> np.ndarray:
  """Decodes an image, resizes its shorter side and takes the central square.

  Args:
    encoded: image file of a kind in `decode.FORMATS`.
    size: side of the result, pixels.
    shorter_side: shorter side of the resized image, pixels, at least `size`.

  Returns:
    uint8 [size, size, 3].

  Raises:
    ValueError: for an image of another kind, or with too many pixels.
    Exception: anything else that a broken image makes pillow raise.
  """
  with decode.opened(io.BytesIO(encoded)) as opened:
    return np.asarray(resize.central_crop(decode.decoded(opened, channels=3), size, shorter_side))
