"""Tests of `dpoq_jax.data.to_predict`."""

from typing import Any
import warnings

import numpy as np
from PIL import Image
import pytest

from dpoq_jax.data import to_predict

SHAPE = (6, 8, 3)


def picture(seed=0, height=6, width=8, channels=3):
  pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
  return pixels if channels == 3 else pixels[..., 0]


def read(path, shape=SHAPE, batch_size=4) -> list[Any]:
  found = to_predict.find(path, shape)
  result = [each for batch in found.batches(batch_size) for each in batch]
  assert len(found) == len(result)
  return result


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
  names = ['b.png', 'a.bmp', 'sub/c.PNG', 'sub/deep/d.tiff']
  for seed, name in enumerate(names):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed)).save(tmp_path / name)
  (tmp_path / 'notes.txt').write_text('not an image')
  found = read(tmp_path)
  assert [each.name for each in found] == ['a.bmp', 'b.png', 'sub/c.PNG', 'sub/deep/d.tiff']
  for each in found:
    np.testing.assert_array_equal(each.image, picture(names.index(each.name)))
  sizes = [len(batch) for batch in to_predict.find(tmp_path, SHAPE).batches(3)]
  assert sizes == [3, 1]


def test_other_kinds_and_sizes_are_converted(tmp_path):
  Image.fromarray(picture(channels=1)).save(tmp_path / 'grey.png')
  Image.fromarray(picture()).convert('P').save(tmp_path / 'palette.gif')
  Image.fromarray(np.dstack([picture(), picture()[..., :1]])).save(tmp_path / 'alpha.png')
  Image.fromarray(picture(height=60, width=90)).save(tmp_path / 'large.jpg')
  for each in read(tmp_path):
    assert each.error is None
    assert (each.image.shape, each.image.dtype) == (SHAPE, np.uint8)
  np.testing.assert_array_equal(read(tmp_path / 'grey.png')[0].image[..., 1], picture(channels=1))
  assert read(tmp_path / 'alpha.png', shape=(6, 8, 1))[0].image.shape == (6, 8, 1)


def test_pictures_are_turned_upright(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6  # to be turned clockwise by a quarter
  Image.fromarray(picture(height=8, width=6)).save(tmp_path / 'turned.png', exif=exif)
  (each,) = read(tmp_path)
  np.testing.assert_array_equal(each.image, np.rot90(picture(height=8, width=6), -1))


def test_what_cannot_be_read_says_why(tmp_path):
  Image.fromarray(picture(height=50, width=50)).save(tmp_path / 'c.png')
  whole = (tmp_path / 'c.png').read_bytes()
  (tmp_path / 'a.png').write_bytes(b'no image at all')
  (tmp_path / 'b.png').write_bytes(whole[: len(whole) // 2])
  (tmp_path / 'd.png').write_bytes(b'')
  found = read(tmp_path)
  assert [each.image is None for each in found] == [True, True, False, True]
  assert 'cannot identify' in found[0].error
  assert 'truncated' in found[1].error
  assert all(str(tmp_path) not in (each.error or '') for each in found)


def test_a_decompression_bomb_is_not_decoded(tmp_path, monkeypatch):
  Image.fromarray(picture(height=50, width=50)).save(tmp_path / 'a.png')
  # From twice the limit on pillow refuses by itself; below, it only warns.
  for limit in (1000, 2000):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', limit)
    with warnings.catch_warnings():
      warnings.simplefilter('ignore', Image.DecompressionBombWarning)
      (each,) = read(tmp_path)
    assert each.image is None
    assert ('exceeds limit' if limit == 1000 else '50 x 50 pixels: too large') in each.error


@pytest.mark.parametrize(('stored', 'shape', 'count'), [
  ((5, 6, 8, 3), SHAPE, 5), ((6, 8, 3), SHAPE, 1), ((5, 6, 8), (6, 8, 1), 5),
  ((5, 6, 8, 1), (6, 8, 1), 5),
])  # fmt: skip
def test_an_array_is_read_in_its_order(tmp_path, stored, shape, count):
  array = np.arange(np.prod(stored)).reshape(stored).astype(np.uint8)
  np.save(tmp_path / 'x.npy', array)
  found = read(tmp_path / 'x.npy', shape, batch_size=2)
  assert [each.name for each in found] == [str(i) for i in range(count)]
  np.testing.assert_array_equal(
    np.stack([each.image for each in found]), array.reshape(count, *shape)
  )


@pytest.mark.parametrize(
  'array',
  [
    np.zeros((5, 6, 8, 3), np.float32),
    np.zeros((5, 8, 6, 3), np.uint8),
    np.zeros((0, 6, 8, 3), np.uint8),
    np.zeros(7, np.uint8),
  ],
)
def test_arrays_of_something_else_are_refused(tmp_path, array):
  np.save(tmp_path / 'x.npy', array)
  with pytest.raises(ValueError, match=r'this network takes uint8 \[examples, 6, 8, 3\]'):
    read(tmp_path / 'x.npy')


def test_pickles_are_refused(tmp_path):
  np.save(tmp_path / 'x.npy', np.array([{}], object), allow_pickle=True)
  with pytest.raises(ValueError, match='not an array of images'):
    read(tmp_path / 'x.npy')
  (tmp_path / 'y.npy').write_bytes(b'')
  with pytest.raises(ValueError, match='not an array of images'):
    read(tmp_path / 'y.npy')


def test_nothing_there_is_said(tmp_path):
  for path in (tmp_path / 'none', tmp_path / 'none.npy', tmp_path):
    with pytest.raises(FileNotFoundError, match=str(path)):
      read(path)


def test_sixteen_bits_are_scaled_and_pixels_without_a_range_refused(tmp_path):
  ramp = np.linspace(0, 65535, 48).astype(np.uint16).reshape(6, 8)
  Image.fromarray(ramp).save(tmp_path / 'a.png')
  Image.fromarray(ramp.astype(np.float32) / 65535).save(tmp_path / 'b.tiff')
  whole, refused = read(tmp_path, shape=(6, 8, 1))
  np.testing.assert_array_equal(whole.image[..., 0], ramp // 257)
  assert refused.image is None
  assert 'pixels of mode F have no range' in refused.error


def test_a_link_to_nothing_has_a_row_and_what_pillow_cannot_decode_none(tmp_path):
  (tmp_path / 'gone.png').symlink_to(tmp_path / 'nothing.png')
  for name in ('a.h5', 'b.pdf', 'c.mpg', 'd.eps'):
    (tmp_path / name).write_bytes(b'x')
  (each,) = read(tmp_path)
  assert each.name == 'gone.png'
  assert each.error


def test_a_zip_of_arrays_is_no_array(tmp_path):
  with (tmp_path / 'x.npy').open('wb') as file:
    np.savez(file, images=np.zeros((2, *SHAPE), np.uint8))
  with pytest.raises(ValueError, match='it holds several arrays'):
    read(tmp_path / 'x.npy')


@pytest.mark.parametrize('count', [1, 3, 7])
def test_shards_are_the_whole_in_order(count, tmp_path):
  array = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
  np.save(tmp_path / 'images.npy', array)
  for number, image in enumerate(array):
    Image.fromarray(image).save(tmp_path / f'{number}.png')
  for path in (tmp_path / 'images.npy', tmp_path):
    whole = to_predict.find(path, (4, 4, 3))
    shards = [whole.shard(index, count) for index in range(count)]
    assert sum(map(len, shards)) == 5
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    read = [each for shard in shards for batch in shard.batches(2) for each in batch]
    expected = [each for batch in whole.batches(2) for each in batch]
    assert [each.name for each in read] == [each.name for each in expected]
    for each, image in zip(read, array, strict=True):
      np.testing.assert_array_equal(each.image, image)
