"""Opens images, the only place that does, and makes pixels a network can take of them.

What an image is decided by its content, and read are kinds that pillow decodes by itself: an EPS
file under another name would be a program for Ghostscript. Training, evaluation and `predict` see
an image alike: turned upright as its EXIF says, with eight bits a channel, grey or RGB.

Nothing here imports JAX or TFDS: worker processes run it.
"""

from collections.abc import Callable, Iterator
import contextlib
import functools
import struct
import threading
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

if TYPE_CHECKING:
  from PIL import Image

FORMATS = ('AVIF', 'BMP', 'GIF', 'JPEG', 'JPEG2000', 'PNG', 'PPM', 'TIFF', 'WEBP')
"""Kinds of images that are read, by pillow's names; MPO, several JPEGs in a file, is a JPEG."""

# How an image of each EXIF orientation is turned; those that swap width and height come last.
_TURNS = {
  2: 'FLIP_LEFT_RIGHT',
  3: 'ROTATE_180',
  4: 'FLIP_TOP_BOTTOM',
  5: 'TRANSPOSE',
  6: 'ROTATE_270',
  7: 'TRANSVERSE',
  8: 'ROTATE_90',
}
_SWAP_SIDES = (5, 6, 7, 8)
_ORIENTATION = 0x0112
# Threads decode images of more pixels one after another: a file of 300 kB may take 700 MB.
_LARGE = 2**24
_ONE_AT_A_TIME = threading.Lock()
# Tags of TIFF.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


@contextlib.contextmanager
def opened(file: BinaryIO) -> Iterator['Image.Image']:
  """Opens an image; its pixels are decoded later.

  Raises:
    ValueError: if it is of another kind, or has too many pixels to be decoded.
    Exception: anything else that a broken image makes pillow raise.
  """
  from PIL import Image

  try:
    image = Image.open(file, formats=formats())
  except Image.UnidentifiedImageError:
    raise ValueError(_what_it_is(file)) from None
  with image:
    pixels = image.width * image.height
    # Pillow itself only warns above this number of pixels, and raises above twice as many.
    if Image.MAX_IMAGE_PIXELS and pixels > Image.MAX_IMAGE_PIXELS:
      raise ValueError(f'{image.width} x {image.height} pixels: too large to decode.')
    with _ONE_AT_A_TIME if pixels > _LARGE else contextlib.nullcontext():
      yield image


def upright_size(image: 'Image.Image') -> tuple[int, int]:
  """Returns the (width, height) that an opened image has once it is upright."""
  width, height = image.size if _is_drafted(image) else _loaded(image).size
  return (height, width) if _orientation(image) in _SWAP_SIDES else (width, height)


def decoded(image: 'Image.Image', channels: int) -> 'Image.Image':
  """Decodes an opened image: upright, eight bits a channel, grey or RGB, without transparency.

  Args:
    image: image of any mode; pixels of more than eight bits are scaled by the depth of the file.
    channels: channels of the result, 1 for grey or 3 for RGB.

  Raises:
    ValueError: if its pixels have no range that is known.
    Exception: anything else that a broken image makes pillow raise.
  """
  from PIL import Image

  turn = _TURNS.get(_orientation(_loaded(image)))
  # It would make pillow warn when it is dropped.
  image.info.pop('transparency', None)
  result, mode = _eight_bits(image), 'L' if channels == 1 else 'RGB'
  if result.mode != mode:
    result = result.convert(mode)
  return result.transpose(Image.Transpose[turn]) if turn else result


@functools.cache
def formats() -> tuple[str, ...]:
  """Returns those of `FORMATS` that this pillow has."""
  from PIL import Image

  Image.init()
  return tuple(name for name in FORMATS if name in Image.OPEN)


@functools.cache
def suffixes() -> frozenset[str]:
  """Returns the suffixes, in lower case, of the files that are read."""
  from PIL import Image

  read = (*formats(), 'MPO')
  return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in read)


def _what_it_is(file: BinaryIO) -> str:
  """Returns why a file is not read: what its first bytes say it is."""
  from PIL import Image

  file.seek(0)
  start = file.read(16)
  if not start:
    return 'an empty file.'
  kinds = [name for name, (_, accept) in Image.OPEN.items() if accept and _accepts(accept, start)]
  if known := [name for name in kinds if name in formats()]:
    return f'a damaged image: it begins as {known[0]} does.'
  found = f'its content is {kinds[0]}' if kinds else 'cannot identify its content'
  return f'no image that is read: {found}; read are {", ".join(formats())}.'


def _accepts(accept: Callable[[bytes], bool | str], start: bytes) -> bool:
  """Tells whether a kind of image begins with these bytes."""
  try:
    return accept(start) is True
  except (IndexError, struct.error):  # The file is shorter than what it looks for.
    return False


def _is_drafted(image: 'Image.Image') -> bool:
  """Tells whether pillow can decode an image at a fraction of its size."""
  return image.format in ('JPEG', 'MPO')


def _loaded(image: 'Image.Image') -> 'Image.Image':
  """Decodes the pixels of an image, unless that was done, and returns it."""
  image.load()
  return image


def _orientation(image: 'Image.Image') -> int:
  """Returns the EXIF orientation of an opened image; 1 is upright.

  Pillow turns TIFF by itself as it decodes it, and then says 1.
  """
  if not _is_drafted(image):
    # The EXIF may follow the pixels, and an error of theirs must not be taken for one of it.
    _loaded(image)
  try:
    return int(image.getexif().get(_ORIENTATION, 1))
  # Damaged EXIF may raise anything; it says nothing about the pixels.
  except Exception:
    return 1


def _eight_bits(image: 'Image.Image') -> 'Image.Image':
  """Scales the pixels of a decoded image to eight bits, if they have more."""
  from PIL import Image

  if image.mode not in ('I', 'F') and not image.mode.startswith('I;16'):
    return image
  highest = _highest(image)
  pixels = np.asarray(image).astype(np.uint32)
  if cast(Any, image).format == 'TIFF' and _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO:
    # Pillow inverts these itself up to eight bits.
    pixels = highest - pixels
  return Image.fromarray(((pixels * 255 + highest // 2) // highest).astype(np.uint8))


def _highest(image: 'Image.Image') -> int:
  """Returns the value of white in an image of more than eight bits, as the file says.

  Pillow's modes do not: it keeps 12 bits in 16, and 16 in 32.
  """
  match image.format, image.mode:
    # Scaled by pillow itself, from the maximum that the file names.
    case ('PNG', 'I;16' | 'I;16B') | ('PPM', 'I'):
      return 2**16 - 1
    case 'TIFF', 'I;16' | 'I;16B':
      return 2 ** int(_tag(image, _BITS_PER_SAMPLE)) - 1
    case kind, mode:
      raise ValueError(
        f'pixels of mode {mode} in a file of kind {kind} have no range of their own: give 8 bits, '
        'or up to 16 in PNG, PGM or TIFF.'
      )


def _tag(image: 'Image.Image', number: int) -> Any:
  """Returns the value of a tag of a TIFF image, the first of several."""
  value = cast(Any, image).tag_v2[number]
  return value[0] if isinstance(value, tuple) else value
