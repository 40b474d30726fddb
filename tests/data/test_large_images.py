"""Images of many pixels, or that say so: read or refused, in little memory."""

import concurrent.futures
import io
import pathlib
import re
import struct
import threading
import time
from typing import Any
import zlib

import numpy as np
from PIL import Image
import pytest

from dpoq_jax.data import crop, decode, to_predict
from tests.data import jpegs
from tests.fuzz import mutations

SHAPE = (32, 32, 3)
# Of the kinds that take most memory, as many pixels as are read.
WORST: dict[str, tuple[str, dict[str, Any]]] = {
  'cmyk.jpeg': ('CMYK', {'progressive': True, 'subsampling': 0}),
  'rgba.png': ('RGBA', {}),
  'deep.png': ('I;16', {}),
  'deep.pgm': ('I;16', {'format': 'ppm'}),
  'rgba.tiff': ('RGBA', {'compression': 'tiff_deflate'}),
  'palette.gif': ('P', {}),
  'grey.bmp': ('L', {}),
  'rgba.webp': ('RGBA', {'lossless': True, 'method': 0}),
  'rgba.jp2': ('RGBA', {'format': 'jpeg2000'}),
  'rgba.avif': ('RGBA', {'speed': 10, 'subsampling': '4:4:4'}),
}


def encoded(mode: str, size: tuple[int, int], options: dict[str, Any], kind: str) -> bytes:
  """Returns an image of one colour, to be turned by a quarter where its kind can say so."""
  exif, file = Image.Exif(), io.BytesIO()
  exif[0x0112] = 6
  if kind in ('jpeg', 'png', 'tiff', 'webp', 'avif'):
    options = {'exif': exif, **options}
  colour = (77, 77, 77, 200)[: len(mode)] if len(mode) > 2 and mode != 'I;16' else 77
  Image.new(mode, size, colour).save(file, **{'format': kind, **options})
  return file.getvalue()


def read(path: pathlib.Path) -> to_predict.Input:
  ((found,),) = to_predict.find(path, SHAPE).batches(1)
  return found


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
def test_a_photograph_of_a_hundred_megapixels_is_read(tmp_path: pathlib.Path):
  path = tmp_path / 'photograph.jpeg'
  # 102 million, of a medium-format camera.
  path.write_bytes(encoded('RGB', (11648, 8736), {}, 'jpeg'))
  with mutations.little_memory(10**9):
    found = read(path)
  assert found.image is not None, found.error
  np.testing.assert_allclose(found.image, 77, atol=1)


@pytest.mark.nightly
@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
@pytest.mark.parametrize('name', WORST)
def test_the_largest_image_of_every_kind_takes_less_than_is_allowed(
  name: str, tmp_path: pathlib.Path
):
  kind = name.rpartition('.')[2]
  mode, options = WORST[name]
  format_name = options.get('format', kind).upper()
  side = int(decode.most_pixels(format_name) ** 0.5)
  path = tmp_path / name
  path.write_bytes(encoded(mode, (side, side), options, kind))
  with mutations.little_memory(15 * 10**8):
    found = read(path)
  assert found.image is not None, found.error


def test_depth_is_reduced_band_by_band(monkeypatch: pytest.MonkeyPatch):
  pixels = np.random.default_rng(0).integers(0, 2**16, (70, 30), np.uint16)
  for kind in ('png', 'ppm', 'tiff'):
    deep = jpegs.encode(Image.fromarray(pixels), kind)
    for band in (2**20, 64, 1):
      monkeypatch.setattr(decode, '_BAND', band)
      with decode.opened(io.BytesIO(deep)) as opened:
        found = np.asarray(decode.decoded(opened, 1))
      np.testing.assert_array_equal(found, (pixels.astype(np.uint32) * 255 + 32767) // 65535)


@pytest.mark.parametrize('kind', ['png', 'tiff', 'bmp', 'gif'])
def test_a_line_of_many_pixels_is_refused(kind: str, tmp_path: pathlib.Path):
  # Resizing takes 16 bytes for each pixel of a side: 1.3 GB for 80 million.
  path = tmp_path / f'line.{kind}'
  if kind == 'gif':
    path.write_bytes(encoded('L', (65535, 1), {}, kind))
    assert read(path).image is not None
    return
  path.write_bytes(encoded('L', (65536, 1), {}, kind))
  assert re.match(
    '(65536 x 1|1 x 65536) pixels at once: too large to decode', read(path).error or ''
  )


def tiled_tiff(side: int) -> bytes:
  """Returns a TIFF image of 40 x 30 pixels in one tile of `side` x `side`, deflated."""
  compressor = zlib.compressobj(9)
  data = b''.join(compressor.compress(bytes(side)) for _ in range(side)) + compressor.flush()
  tags = {256: 40, 257: 30, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side}
  tags |= {324: 8 + 2 + 12 * 10 + 4, 325: len(data)}
  entries = b''.join(
    struct.pack('<HHII' if tag > 300 else '<HHIHxx', tag, 4 if tag > 300 else 3, 1, value)
    for tag, value in tags.items()
  )
  return b'II*\0' + struct.pack('<IH', 8, len(tags)) + entries + bytes(4) + data


def test_a_tile_beyond_its_image_is_bounded(tmp_path: pathlib.Path):
  path = tmp_path / 'tiled.tiff'
  path.write_bytes(tiled_tiff(64))
  assert read(path).image is not None
  path.write_bytes(tiled_tiff(11_000))
  with mutations.little_memory(10**8):
    assert '11000 x 11000 pixels at once: too large to decode' in (read(path).error or '')


@pytest.mark.parametrize(('kind', 'together'), [('png', 3), ('jp2', 1), ('avif', 1)])
def test_threads_share_what_decoding_may_take(
  kind: str, together: int, monkeypatch: pytest.MonkeyPatch
):
  # Of PNG there is room for three, of JPEG 2000, which takes twice as much, for one.
  monkeypatch.setattr(decode, '_MOST_BYTES', int(400 * 300 * 12.5 * 3.9))
  whole = bytearray(
    encoded('RGB', (400, 300), {'format': 'jpeg2000'} if kind == 'jp2' else {}, kind)
  )
  if kind == 'avif':
    # libavif scales what the file holds to the size that its header says.
    place = whole.index(b'ispe') + 8
    assert struct.unpack('>II', whole[place : place + 8]) == (400, 300)
    whole[place : place + 8] = struct.pack('>II', 40, 30)
  lock, now, most = threading.Lock(), [0], [0]

  def open_one(_: int) -> np.ndarray:
    with decode.opened(io.BytesIO(whole)) as opened:
      with lock:
        now[0] += 1
        most[0] = max(most[0], now[0])
      time.sleep(0.02)
      pixels = np.asarray(decode.decoded(opened, 1))
      with lock:
        now[0] -= 1
    return pixels

  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    first, *others = pool.map(open_one, range(16))
  assert most == [together]
  for other in others:
    np.testing.assert_array_equal(other, first)


@pytest.mark.nightly
def test_many_large_images_at_once_take_less_than_is_allowed():
  # Each would take 0.4 GB.
  whole = encoded('RGBA', (4000, 4000), {'format': 'jpeg2000'}, 'jp2')

  def decode_one(_: int) -> tuple[int, int]:
    with decode.opened(io.BytesIO(whole)) as opened:
      return decode.decoded(opened, 3).size

  with mutations.little_memory(18 * 10**8), concurrent.futures.ThreadPoolExecutor(16) as pool:
    assert set(pool.map(decode_one, range(16))) == {(4000, 4000)}


@pytest.mark.parametrize('restarts', [0, 3])
def test_a_jpeg_of_endless_scans_is_refused(restarts: int, tmp_path: pathlib.Path):
  # 75 bytes have the decoder go over all pixels once more: 1 MB would take an hour.
  picture, file = jpegs.picture(np.random.default_rng(0), 60, 50), io.BytesIO()
  picture.save(file, 'jpeg', progressive=True, restart_marker_blocks=restarts)
  whole = file.getvalue()
  last = whole[whole.rindex(b'\xff\xda') : -2]
  scans = whole.count(b'\xff\xda')
  path = tmp_path / 'scans.jpeg'
  for more in (0, 100 - scans, 101 - scans):
    # A video may follow the image, as phones have it, with anything in it.
    path.write_bytes(whole[:-2] + more * last + whole[-2:] + 500 * last)
    found = read(path)
    if scans + more <= 100:
      assert found.image is not None, found.error
    else:
      assert found.error == '101 scans: decoding would take too long; at most 100 are read.'


def test_a_long_image_takes_no_gigabytes_once_it_is_resized():
  # 65,535 x 1 at a shorter side of 36 would be 85 million pixels.
  line = encoded('L', (65535, 1), {}, 'png')
  with pytest.raises(ValueError, match='1 x 65535 pixels: too long to resize'):
    crop.evaluation_crop(line, 32, 36)
