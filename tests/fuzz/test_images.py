"""Damaged images of every kind, as `predict`, evaluation and training read them."""

import io
import pathlib

import numpy as np
from PIL import Image
import pytest

from dpoq_jax.data import crop, to_predict
from tests.data import jpegs
from tests.fuzz import mutations

SHAPE = (16, 16, 3)


def whole_images() -> dict[str, bytes]:
  """Returns a small file of every kind that is read, and of one that is not."""
  colour = jpegs.picture(np.random.default_rng(0), 40, 30)
  grey = colour.convert('L')
  deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
  exif = Image.Exif()
  exif[0x0112] = 6
  kinds = {
    'png': (colour, {'exif': exif}),
    'palette.png': (colour.convert('P'), {'transparency': 3}),
    'deep.png': (deep, {}),
    'jpeg': (colour, {'exif': exif}),
    'progressive.jpeg': (colour, {'progressive': True}),
    'mpo': (colour, {'save_all': True, 'append_images': [colour]}),
    'gif': (colour, {}),
    'bmp': (colour, {}),
    'tiff': (colour, {}),
    'deep.tiff': (deep, {}),
    'lzw.tiff': (colour, {'compression': 'tiff_lzw', 'exif': exif}),
    'jpeg.tiff': (colour, {'compression': 'jpeg'}),
    'webp': (colour, {}),
    'lossless.webp': (colour, {'lossless': True, 'exif': exif}),
    'ppm': (colour, {}),
    'pgm': (deep, {'format': 'ppm'}),
    'avif': (colour, {}),
    'jp2': (colour, {'format': 'jpeg2000'}),
    'eps': (colour, {}),
  }
  found = {}
  for name, (image, options) in kinds.items():
    encoded = io.BytesIO()
    image.save(encoded, **({'format': name.rpartition('.')[2]} | options))
    found[name] = encoded.getvalue()
  found['plain.ppm'] = b'P3 2 2 4095\n' + b'0 4095 7 ' * 4
  return found


@mutations.counts
@pytest.mark.filterwarnings('ignore')  # What pillow says of odd metadata.
def test_damaged_images_are_read_whole_or_have_a_row_that_says_why(
  count: int, tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
):
  rng = np.random.default_rng(16)
  originals = list(whole_images().items())
  for number in range(count):
    name, whole = originals[number % len(originals)]
    # Named as another kind every third time: the content decides.
    suffix = 'png' if number % 3 == 0 else name.rpartition('.')[2].replace('eps', 'png')
    mutate = mutations.mutated_sizes if rng.integers(3) == 0 else mutations.mutated_bytes
    (tmp_path / f'{number:05}.{suffix}').write_bytes(mutate(rng, whole))
  with mutations.no_hang(10 + count / 50):
    found = [each for batch in to_predict.find(tmp_path, SHAPE).batches(64) for each in batch]
  assert len(found) == count
  unread = 0
  for each in found:
    if each.image is None:
      assert each.error
      assert len(each.error) < 2000
      assert each.error.isprintable()
      assert str(tmp_path) not in each.error
      unread += 1
    else:
      assert each.error is None
      assert (each.image.shape, each.image.dtype) == (SHAPE, np.uint8)
  assert 0 < unread < count
  # Streamed sets take and refuse the same ones.
  for each in found:
    encoded = (tmp_path / each.name).read_bytes()
    for crop_image in (_evaluation_crop, _training_crop):
      try:
        refused = crop_image(encoded).shape != SHAPE
      except Exception:
        refused = True
      assert refused == (each.image is None), (each.name, each.error)
  # The C libraries of decoders print past Python.
  assert not capfd.readouterr().err


def _evaluation_crop(encoded: bytes) -> np.ndarray:
  return crop.evaluation_crop(encoded, 16, 18)


def _training_crop(encoded: bytes) -> np.ndarray:
  return crop.training_crop(encoded, 16, np.random.default_rng(0))


@mutations.counts
@pytest.mark.filterwarnings('ignore')
def test_a_part_of_an_image_is_not_taken_for_the_whole(count: int, tmp_path: pathlib.Path):
  rng = np.random.default_rng(17)
  originals = {name: data for name, data in whole_images().items() if name != 'eps'}
  pixels = {}
  for name, whole in originals.items():
    path = tmp_path / f'whole.{name.rpartition(".")[2]}'
    path.write_bytes(whole)
    ((read,),) = to_predict.find(path, SHAPE).batches(1)
    assert read.error is None, name
    pixels[name] = read.image
    path.unlink()
  names = list(originals)
  for number in range(count):
    name = names[number % len(names)]
    part = originals[name][: int(rng.integers(len(originals[name])))]
    (tmp_path / f'{number:05}.{name.rpartition(".")[2]}').write_bytes(part)
  for batch in to_predict.find(tmp_path, SHAPE).batches(64):
    for each in batch:
      name = names[int(each.name[:5]) % len(names)]
      # What follows the pixels may be lost.
      if each.image is not None:
        np.testing.assert_array_equal(each.image, pixels[name], each.name)
