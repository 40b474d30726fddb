"""Folders of generated photographs as people have them: of any size, mode and orientation."""

import pathlib

import numpy as np
from PIL import ExifTags, Image

CLASSES = ('apple', 'bee', 'crème brûlée', 'deep sea', 'elk')
MODES = ('RGB', 'RGB', 'RGB', 'L', 'P', 'RGBA', 'CMYK', 'I;16')
_COLOURS = ((200, 30, 30), (220, 190, 20), (240, 225, 190), (10, 40, 160), (60, 130, 40))
# Stripes of classes have periods of their own, so that grey pictures can be told apart, too.
_PERIODS = (0, 3, 5, 9, 17)


def picture(rng: np.random.Generator, label: int) -> Image.Image:
  """A picture of a class, in RGB, of an odd size; noise makes each another one."""
  width, height = (2 * rng.integers(18, 60, 2) + 1).tolist()
  period = _PERIODS[label]
  stripes = 60 * (np.arange(width) // period % 2) if period else np.zeros(width)
  pixels = np.array(_COLOURS[label]) * 0.75 + stripes[None, :, None]
  noise = rng.normal(0, 10, (height, width, 3))
  return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def save(image: Image.Image, mode: str, path: pathlib.Path, orientation: int = 1) -> pathlib.Path:
  """Saves a picture in a mode; returns the path, whose suffix is that of a kind that has the mode.

  The pixels are turned, so that a reader that minds the EXIF orientation sees the picture upright.
  """
  turned = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}
  if orientation in turned:
    image = image.transpose(turned[orientation])
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = orientation
  if mode == 'I;16':
    path = path.with_suffix('.png')
    Image.fromarray(np.asarray(image.convert('L')).astype(np.uint16) * 257).save(path)
  elif mode in ('P', 'RGBA'):
    path = path.with_suffix('.png')
    image.convert(mode).save(path, exif=exif)
  else:
    path = path.with_suffix('.JPG')
    image.convert(mode).save(path, 'jpeg', quality=95, exif=exif)
  return path


def write(folder: pathlib.Path, count: int = 300, seed: int = 0) -> pathlib.Path:
  """Writes pictures of all classes, each into the folder of its class; returns the folder."""
  rng = np.random.default_rng(seed)
  for number in range(count):
    label = number % len(CLASSES)
    parent = folder / CLASSES[label]
    parent.mkdir(parents=True, exist_ok=True)
    mode = MODES[number // len(CLASSES) % len(MODES)]
    orientation = (1, 6, 1, 3)[number % 4]
    save(picture(rng, label), mode, parent / f'{number:03}', orientation)
  return folder
