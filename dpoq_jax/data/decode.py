"""Opens images, the only place that does, and makes pixels a network can take of them.

What an image is decided by its content, and read are kinds that pillow decodes by itself: an EPS
file under another name would be a program for Ghostscript. Training, evaluation and `predict` see
an image alike: turned upright as its EXIF says, with eight bits a channel, grey or RGB.

Nothing here imports JAX or TFDS: worker processes run it.
"""

from collections.abc import Callable, Iterator
import contextlib
import ctypes
import functools
import io
import math
import pathlib
import re
import struct
import threading
from typing import TYPE_CHECKING, Any, BinaryIO, cast
import warnings

import numpy as np

if TYPE_CHECKING:
  from PIL import Image

FORMATS = ('AVIF', 'BMP', 'GIF', 'JPEG', 'JPEG2000', 'PNG', 'PPM', 'TIFF', 'WEBP')
"""Kinds of images that are read, by pillow's names; MPO, several JPEGs in a file, is a JPEG."""

LONGEST_SIDE = 2**16 - 1
"""Longest side of an image that is read, pixels, as in JPEG; resizing takes 16 bytes for each."""

_MOST_BYTES = 1_400_000_000
"""Memory that images decoded at once by a process may take: 112 million pixels of most kinds."""

# Bytes that a pixel takes at most until the image is upright: of most kinds in a progressive CMYK
# JPEG, of these since their libraries hold the whole image in forms of their own.
_BYTES_PER_PIXEL = {'AVIF': 18, 'JPEG2000': 25, 'WEBP': 17}
_BYTES_PER_PIXEL_OF_MOST = 12.5

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
# Scans of a JPEG that are decoded, as in libtiff: each goes over all pixels, and 75 bytes make one.
# Real ones have at most a dozen.
_MOST_SCANS = 100
_MARKER = re.compile(rb'\xff[^\x00\x01\xd0-\xd8\xff]')
_START_OF_SCAN, _END_OF_IMAGE = b'\xff\xda', b'\xff\xd9'
# Bytes of a JPEG in which its scans are counted; those of the largest image take less.
_COUNTED = 2**27
# Pixels whose depth is reduced at once.
_BAND = 2**20
# Tags of TIFF.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0
_TILE_WIDTH, _TILE_LENGTH = 322, 323


class _Memory:
  """Bounds the bytes of the images that the threads of this process decode at the same time."""

  def __init__(self) -> None:
    """Holds nothing."""
    self._taken, self._changed = 0, threading.Condition()

  @contextlib.contextmanager
  def reserved(self, size: int) -> Iterator[None]:
    """Holds `size` bytes, once they are free or no other image holds any."""
    with self._changed:
      self._changed.wait_for(lambda: not self._taken or self._taken + size <= _MOST_BYTES)
      self._taken += size
    try:
      yield
    finally:
      with self._changed:
        self._taken -= size
        self._changed.notify_all()


_MEMORY = _Memory()


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
    pieces, most = (image.size, _tile(image)), most_pixels(image.format)
    for width, height in pieces:
      if width * height > most or max(width, height) > LONGEST_SIDE:
        raise ValueError(
          f'{width} x {height} pixels at once: too large to decode; {image.format} is read up to '
          f'{most:,} pixels, and {LONGEST_SIDE:,} a side.'
        )
    if _is_drafted(image) and (scans := _scans(file)) > _MOST_SCANS:
      raise ValueError(
        f'{scans} scans: decoding would take too long; at most {_MOST_SCANS} are read.'
      )
    # The content of an AVIF may be larger than its header says, up to 268 million pixels.
    is_known = image.format != 'AVIF'
    size = max(map(math.prod, pieces)) * _bytes_per_pixel(image.format) if is_known else _MOST_BYTES
    with _MEMORY.reserved(int(size)):
      yield image


def most_pixels(kind: str | None) -> int:
  """Returns the pixels that an image of a kind may have, for decoding to take little memory."""
  return int(_MOST_BYTES / _bytes_per_pixel(kind))


def upright_size(image: 'Image.Image') -> tuple[int, int]:
  """Returns the (width, height) that an opened image has once it is upright."""
  width, height = image.size if _is_drafted(image) else _loaded(image).size
  return (height, width) if _orientation(image) in _SWAP_SIDES else (width, height)


def decoded(image: 'Image.Image', channels: int) -> 'Image.Image':
  """Decodes an opened image: upright, eight bits a channel, grey or RGB, without transparency.

  Args:
    image: image of any mode, which is used up: the memory of its pixels may be given back. Pixels
      of more than eight bits are scaled by the depth of the file.
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
  if result is not image:
    image.close()
  return result.transpose(Image.Transpose[turn]) if turn else result


@functools.cache
def formats() -> tuple[str, ...]:
  """Returns those of `FORMATS` that this pillow has."""
  from PIL import Image

  Image.init()
  # Pillow warns above 89 million pixels and raises above twice as many; `opened` decides.
  warnings.filterwarnings('ignore', category=Image.DecompressionBombWarning)
  _silence_libtiff()
  return tuple(name for name in FORMATS if name in Image.OPEN)


@functools.cache
def suffixes() -> frozenset[str]:
  """Returns the suffixes, in lower case, of the files that are read."""
  from PIL import Image

  read = (*formats(), 'MPO')
  return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in read)


def _silence_libtiff() -> None:
  """Has libtiff print nothing about damaged files, which pillow raises errors about anyway.

  Pillow has no switch for it; libtiff has one, for the whole process. Where the loaded library is
  not to be found, as on macOS, its lines are printed.
  """
  try:
    maps = pathlib.Path('/proc/self/maps').read_text()
    for path in sorted(set(re.findall(r'/.*libtiff[^/]*$', maps, re.MULTILINE))):
      library = ctypes.CDLL(path)
      for name in ('TIFFSetErrorHandler', 'TIFFSetWarningHandler'):
        set_handler = getattr(library, name)
        set_handler.argtypes, set_handler.restype = (ctypes.c_void_p,), ctypes.c_void_p
        set_handler(None)
  except (OSError, AttributeError):
    pass


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


def _bytes_per_pixel(kind: str | None) -> float:
  """Returns the bytes that a pixel of an image of a kind takes while it is decoded."""
  return _BYTES_PER_PIXEL.get(kind or '', _BYTES_PER_PIXEL_OF_MOST)


def _tile(image: 'Image.Image') -> tuple[int, int]:
  """Returns the (width, height) of the tiles of a TIFF image, which may reach beyond it."""
  tags = cast(Any, image).tag_v2 if image.format == 'TIFF' else {}
  width, length = tags.get(_TILE_WIDTH), tags.get(_TILE_LENGTH)
  # Those that are no whole numbers are refused by the decoder.
  return (width, length) if isinstance(width, int) and isinstance(length, int) else (0, 0)


def _scans(file: BinaryIO) -> int:
  """Returns the number of scans of an opened JPEG if they may be too many, or else 0.

  What follows the end of the image is left out: phones put videos there.
  """
  position = file.seek(0, io.SEEK_CUR)
  file.seek(0)
  data, scans, place = file.read(_COUNTED), 0, 0
  file.seek(position)
  if data.count(_START_OF_SCAN) <= _MOST_SCANS:  # Nearly always, and a hundred times as fast.
    return 0
  while (marker := _MARKER.search(data, place)) and marker[0] != _END_OF_IMAGE:
    scans += marker[0] == _START_OF_SCAN
    place = marker.end() + max(2, int.from_bytes(data[marker.end() : marker.end() + 2]))
  return scans


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
  # Pillow inverts these itself up to eight bits.
  is_negative = image.format == 'TIFF' and _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO
  result, rows = Image.new('L', image.size), max(1, _BAND // image.width)
  # A few rows at a time: as numbers of 32 bits the whole image would take many times its size.
  for top in range(0, image.height, rows):
    band = (0, top, image.width, min(top + rows, image.height))
    pixels = np.asarray(image.crop(band)).astype(np.uint32)
    if is_negative:
      pixels = highest - pixels
    scaled = ((pixels * 255 + highest // 2) // highest).astype(np.uint8)
    result.paste(Image.fromarray(scaled), band)
  return result


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
