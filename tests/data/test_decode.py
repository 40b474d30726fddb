"""Tests of `dpoq_jax.data.decode`, by way of the crops that are made with it."""

import io
import pathlib
import re

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin
import pytest

from dpoq_jax.data import crop, decode, resize, to_predict
from tests.data import jpegs


@pytest.mark.parametrize('mode', ['L', 'CMYK', 'RGBA', 'P', '1', 'LA', 'I;16'])
def test_every_kind_of_image_becomes_rgb(mode):
  colour = jpegs.picture(np.random.default_rng(0), 60, 50)
  if mode == 'I;16':
    image = Image.fromarray(np.asarray(colour.convert('L')).astype(np.uint16) * 257)
  else:
    image = colour.convert(mode)
  kind = 'jpeg' if mode == 'CMYK' else 'png'
  for cropped in (
    crop.evaluation_crop(jpegs.encode(image, kind), 32, 40),
    crop.training_crop(jpegs.encode(image, kind), 32, np.random.default_rng(0)),
  ):
    assert cropped.shape == (32, 32, 3)
    assert cropped.dtype == np.uint8
  if mode in ('L', 'I;16'):
    grey = crop.evaluation_crop(jpegs.encode(colour.convert('L'), 'png'), 32, 40)
    np.testing.assert_array_equal(crop.evaluation_crop(jpegs.encode(image, kind), 32, 40), grey)


@pytest.mark.parametrize('damage', ['truncated', 'no image'])
def test_broken_images_raise(damage):
  encoded = jpegs.encode(jpegs.picture(np.random.default_rng(0), 60, 50))
  broken = encoded[: len(encoded) // 2] if damage == 'truncated' else b'no image'
  with pytest.raises((OSError, ValueError), match=r'(?i)truncated|cannot identify'):
    crop.evaluation_crop(broken, 32, 40)


def whole_crop(encoded: bytes, size: int, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
  """The training crop that is the whole image."""
  with monkeypatch.context() as patch:
    patch.setattr(crop, 'random_crop_box', lambda width, height, rng: (0, 0, width, height))
    return crop.training_crop(encoded, size, np.random.default_rng(0))


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('kind', ['jpeg', 'png', 'tiff', 'webp', 'mpo'])
def test_training_evaluation_and_predict_turn_an_image_alike(
  kind: str, orientation: int, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
  # Large, so that a JPEG is decoded at a fraction of its size in training.
  stored = jpegs.picture(np.random.default_rng(0), 640, 320)
  exif = Image.Exif()
  exif[0x0112] = orientation
  encoded = io.BytesIO()
  options = {'lossless': True} if kind == 'webp' else {}
  stored.save(encoded, kind, exif=exif, **options)
  upright = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded.getvalue())))
  assert upright.size == ((320, 640) if orientation > 4 else (640, 320))
  small = np.asarray(upright.resize((32, 32), Image.Resampling.BILINEAR))
  trained = whole_crop(encoded.getvalue(), 32, monkeypatch)
  # Decoding at a fraction moves a pixel by a level or so; turned wrongly, by 60 on average.
  assert np.abs(trained.astype(int) - small).mean() < 2
  expected = np.asarray(resize.central_crop(upright, 32, 36))
  np.testing.assert_array_equal(crop.evaluation_crop(encoded.getvalue(), 32, 36), expected)
  (tmp_path / f'x.{kind}').write_bytes(encoded.getvalue())
  ((found,),) = to_predict.find(tmp_path, (32, 32, 3), shorter_side=36).batches(1)
  np.testing.assert_array_equal(found.image, expected)


def test_the_random_crop_is_one_of_the_upright_image():
  stored = jpegs.picture(np.random.default_rng(0), 200, 90)
  exif = Image.Exif()
  exif[0x0112] = 6
  turned = io.BytesIO()
  stored.save(turned, 'png', exif=exif)
  upright = jpegs.encode(stored.transpose(Image.Transpose.ROTATE_270), 'png')
  for seed in range(5):
    np.testing.assert_array_equal(
      crop.training_crop(turned.getvalue(), 32, np.random.default_rng(seed)),
      crop.training_crop(upright, 32, np.random.default_rng(seed)),
    )


def test_damaged_exif_does_not_make_an_image_corrupt():
  picture = jpegs.picture(np.random.default_rng(0), 60, 50)
  plain, damaged = io.BytesIO(), io.BytesIO()
  picture.save(plain, 'png')
  picture.save(damaged, 'png', exif=b'Exif\0\0no TIFF header')
  np.testing.assert_array_equal(
    crop.evaluation_crop(damaged.getvalue(), 32, 40), crop.evaluation_crop(plain.getvalue(), 32, 40)
  )


def deep_tiff(pixels: np.ndarray, tags: dict[int, int]) -> bytes:
  found, encoded = TiffImagePlugin.ImageFileDirectory_v2(), io.BytesIO()
  for tag, value in tags.items():
    found[tag] = value
  Image.fromarray(pixels).save(encoded, 'tiff', tiffinfo=found)
  return encoded.getvalue()


def test_sixteen_bits_in_which_white_is_zero_are_no_negative():
  pixels = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
  encoded = bytearray(deep_tiff(pixels, {}))
  # The tag of the photometric interpretation, a short, one of them: from 1 to 0.
  position = encoded.index(b'\x06\x01\x03\0\x01\0\0\0\x01\0')
  encoded[position + 8] = 0
  with decode.opened(io.BytesIO(encoded)) as opened:
    assert opened.mode == 'I;16'
    found = np.asarray(decode.decoded(opened, 1))
  np.testing.assert_array_equal(found, np.rint((65535 - pixels) / 257))


@pytest.mark.parametrize(
  ('kind', 'pixels'),
  [
    ('tiff', np.ones((8, 8), np.float32)),
    ('tiff', np.ones((8, 8), np.int32)),
    ('jpeg2000', np.full((8, 8), 999, np.uint16)),
  ],
)
def test_pixels_of_unknown_depth_are_refused(kind: str, pixels: np.ndarray):
  encoded = jpegs.encode(Image.fromarray(pixels), kind)
  with pytest.raises(ValueError, match=f'in a file of kind {kind.upper()} have no range'):
    crop.evaluation_crop(encoded, 8, 8)


def test_transparency_of_a_palette_is_dropped_without_a_warning():
  image = jpegs.picture(np.random.default_rng(0), 60, 50).convert('P')
  encoded = io.BytesIO()
  image.save(encoded, 'png', transparency=bytes(range(200)))
  # A warning would be an error here.
  found = crop.evaluation_crop(encoded.getvalue(), 50, 50)
  np.testing.assert_array_equal(
    found, np.asarray(resize.central_crop(image.convert('RGB'), 50, 50))
  )


def test_decoders_print_nothing_of_their_own(capfd: pytest.CaptureFixture[str]):
  # What the C libraries print goes past Python: "JPEGLib: Unsupported JPEG process: SOF type 0xc7."
  picture = jpegs.picture(np.random.default_rng(0), 60, 50)
  jpeg, lzw = io.BytesIO(), io.BytesIO()
  picture.save(jpeg, 'tiff', compression='jpeg')
  picture.save(lzw, 'tiff', compression='tiff_lzw')
  damaged = jpeg.getvalue().replace(b'\xff\xc0', b'\xff\xc7')
  assert damaged != jpeg.getvalue()
  for encoded in (damaged, lzw.getvalue()[:8] + bytes(900) + lzw.getvalue()[908:]):
    with pytest.raises(OSError, match=r'decoder error|-2'):
      crop.evaluation_crop(encoded, 32, 40)
  assert capfd.readouterr() == ('', '')


def test_images_are_opened_in_one_place():
  package = pathlib.Path(decode.__file__).parents[1]
  places = [
    path.name for path in package.rglob('*.py') if re.search(r'\bImage\.open\(', path.read_text())
  ]
  assert places == ['decode.py']
