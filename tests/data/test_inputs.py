from typing import Any

import numpy as np
from PIL import Image
import pytest

from dpoq_jax.data import inputs

SHAPE = (6, 8, 3)


def picture(seed=0, height=6, width=8, channels=3):
  pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
  return pixels if channels == 3 else pixels[..., 0]


def read(path, shape=SHAPE, batch_size=4) -> list[Any]:
  return [each for batch in inputs.read(path, shape, batch_size=batch_size) for each in batch]


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
  assert inputs.count(tmp_path) == 4
  sizes = [len(batch) for batch in inputs.read(tmp_path, SHAPE, batch_size=3)]
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
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
  (each,) = read(tmp_path)
  assert each.image is None
  assert 'exceeds limit' in each.error


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
