"""Tests of `dpoq_jax.data.to_predict`."""

import contextlib
import os
import pathlib
import shutil
import socket
import tempfile
from typing import Any

import numpy as np
from PIL import EpsImagePlugin, Image
import pytest

from dpoq_jax.data import crop, decode, to_predict

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
  assert 'cannot identify its content; read are AVIF, BMP' in found[0].error
  assert 'truncated' in found[1].error
  assert found[3].error == 'an empty file.'
  assert all(str(tmp_path) not in (each.error or '') for each in found)


def test_a_decompression_bomb_is_not_decoded(tmp_path, monkeypatch):
  Image.fromarray(picture(height=50, width=50)).save(tmp_path / 'a.png')
  monkeypatch.setattr(decode, '_MOST_BYTES', 2499 * 12.5)
  (each,) = read(tmp_path)
  assert each.image is None
  assert each.error == (
    '50 x 50 pixels at once: too large to decode; PNG is read up to 2,499 pixels, '
    'and 65,535 a side.'
  )
  monkeypatch.setattr(decode, '_MOST_BYTES', 2500 * 12.5)
  (each,) = read(tmp_path)
  assert each.image is not None


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
  np.testing.assert_array_equal(whole.image[..., 0], np.rint(ramp / 257))
  assert refused.image is None
  assert 'pixels of mode F in a file of kind TIFF have no range' in refused.error


def test_what_is_passed_over_is_counted(tmp_path):
  for name in ('a.heic', 'b.HEIC', 'sub/c.heic', 'notes.txt', 'README'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b'x')
  with pytest.raises(
    FileNotFoundError, match=r'no image files \(5 files passed over \(.heic 3, .txt 1, without'
  ):
    read(tmp_path)
  frames = [Image.fromarray(picture(seed)) for seed in range(2)]
  frames[0].save(tmp_path / 'two.mpo', save_all=True, append_images=frames[1:], quality=100)
  (each,) = read(tmp_path)
  assert each.error is None
  assert to_predict.find(tmp_path, SHAPE).passed_over == {
    '.heic': 3, '.txt': 1, 'without a suffix': 1
  }  # fmt: skip


def test_linked_folders_are_followed_and_circles_come_to_an_end(tmp_path):
  folder, elsewhere = tmp_path / 'folder', tmp_path / 'elsewhere'
  for number, parent in enumerate([folder / 'z', elsewhere / 'deep']):
    parent.mkdir(parents=True)
    Image.fromarray(picture(number)).save(parent / f'{number}.png')
  (folder / 'linked').symlink_to(elsewhere)
  # A link to a folder above it, one to a folder that is read anyhow, one to itself, a circle.
  (folder / 'z' / 'up').symlink_to(folder)
  (folder / 'a').symlink_to(folder / 'z')
  (folder / 'self').symlink_to(folder / 'self')
  (elsewhere / 'deep' / 'back').symlink_to(elsewhere)
  found = read(folder)
  assert [each.name for each in found] == ['linked/deep/1.png', 'z/0.png']
  assert all(each.error is None for each in found)


def test_what_is_no_regular_file_is_neither_waited_for_nor_passed_over(tmp_path):
  os.mkfifo(tmp_path / 'a.png')
  with socket.socket(socket.AF_UNIX) as listening, contextlib.chdir(tmp_path):
    listening.bind('b.png')
  (tmp_path / 'c.png').symlink_to('/dev/zero')
  Image.fromarray(picture()).save(tmp_path / 'd.png')
  # A folder that has the name of an image is one nevertheless.
  (tmp_path / 'e.png').mkdir()
  found = read(tmp_path)
  assert [each.error for each in found] == [
    'a.png is a FIFO, not a regular file.',
    'b.png is a socket, not a regular file.',
    'c.png is a device, not a regular file.',
    None,
  ]
  os.mkfifo(tmp_path / 'x.npy')
  for name in ('a.png', 'b.png', 'c.png', 'x.npy'):
    with pytest.raises(ValueError, match=f'{name} is a .*, not a regular file'):
      read(tmp_path / name)


def test_folders_that_cannot_be_listed_have_a_row(unprivileged):
  Image.fromarray(picture()).save(unprivileged / 'a.png')
  (unprivileged / 'closed').mkdir()
  (unprivileged / 'closed').chmod(0)
  # One too deep for its path to be given to the system.
  deep = os.open(unprivileged, os.O_RDONLY)
  for _ in range(20):
    os.mkdir('d' * 250, dir_fd=deep)
    inner = os.open('d' * 250, os.O_RDONLY, dir_fd=deep)
    os.close(deep)
    deep = inner
  os.close(deep)
  found = read(unprivileged)
  (unprivileged / 'closed').chmod(0o700)
  assert [each.name[:6] for each in found] == ['a.png', 'closed', 'dddddd']
  assert found[1].error == "[Errno 13] Permission denied: 'closed'"
  assert 'File name too long' in found[2].error
  assert len(found[2].error) < 2000


@pytest.fixture
def unprivileged():
  """A folder of a user for whom permissions hold."""
  folder = pathlib.Path(tempfile.mkdtemp())
  user = os.geteuid()
  if user == 0:
    os.chown(folder, 65534, 65534)
    os.seteuid(65534)
  try:
    yield folder
  finally:
    os.seteuid(user)
    shutil.rmtree(folder)


@pytest.mark.parametrize('name', ['twelve_bits.tif', 'sixteen_bits.pgm', 'maxval_4095.pgm'])
def test_depth_is_that_of_the_file(case_images, name):
  shape = (8, 8, 1)
  (expected,), (found,) = (read(case_images / each, shape) for each in ('same_in_8_bits.png', name))
  np.testing.assert_array_equal(found.image, expected.image)


def test_the_content_decides_and_no_other_program_is_started(case_images, tmp_path, monkeypatch):
  # A Ghostscript that would leave a trace.
  program = tmp_path / 'bin' / 'gs'
  program.parent.mkdir()
  program.write_text(f'#!/bin/sh\ntouch {tmp_path}/started\nexit 1\n')
  program.chmod(0o755)
  monkeypatch.setenv('PATH', str(program.parent), prepend=os.pathsep)
  monkeypatch.setattr(EpsImagePlugin, 'gs_binary', None)
  (tmp_path / 'images').mkdir()
  for name in ('a.png', 'b.jpeg', 'c.tif'):
    shutil.copy(case_images / 'postscript_named.png', tmp_path / 'images' / name)
  found = read(tmp_path / 'images')
  assert len(found) == 3
  for each in found:
    assert each.error.startswith('no image that is read: its content is EPS; read are AVIF, BMP')
  encoded = (case_images / 'postscript_named.png').read_bytes()
  for crop_image in (
    lambda: crop.evaluation_crop(encoded, 8, 8),
    lambda: crop.training_crop(encoded, 8, np.random.default_rng(0)),
  ):
    with pytest.raises(ValueError, match='its content is EPS'):
      crop_image()
  assert not (tmp_path / 'started').exists()


@pytest.mark.parametrize(
  ('content', 'said'),
  [
    (b'PK\3\4' + b'x' * 100, 'an archive of several arrays'),
    (b'\x93NUMPY\1\0' + b'\xff\xff' + b'(' * 65535, 'not an array of images: '),
    (b'\x93NUMPY\1\0' + b'\x10\0' + b"{'descr': '|u1',", 'not an array of images: '),
    (b'\x93NUMPY\2\0' + b'\xff\xff\xff\x7f' + b'{}', 'not an array of images: '),
    (b'\x93NUMPY\x09\0', 'not an array of images: '),
    (b'not an array', 'it holds something else'),
  ],
)
def test_damaged_arrays_are_one_line(tmp_path, content, said):
  (tmp_path / 'x.npy').write_bytes(content)
  with pytest.raises(ValueError, match=r'x\.npy is not an array of images') as error:
    read(tmp_path / 'x.npy')
  assert said in str(error.value)


@pytest.mark.parametrize(
  'header',
  [
    "{'descr': '|u1', 'fortran_order': False, 'shape': (-5, 6, 8, 3), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (4611686018427387904, 6, 8, 3), }",
    "{'descr': '|V99999999999', 'fortran_order': False, 'shape': (5,), }",
    "{'descr': ('x', 'y'), 'fortran_order': False, 'shape': (5,), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (5, 6, 8, 3), }",
    '[' * 9000,
  ],
)
def test_headers_that_promise_something_else_than_the_file_are_one_line(tmp_path, header):
  text = header.encode()
  (tmp_path / 'x.npy').write_bytes(b'\x93NUMPY\1\0' + len(text).to_bytes(2, 'little') + text)
  with pytest.raises(ValueError, match=r'x\.npy is not an array of images') as error:
    read(tmp_path / 'x.npy')
  assert '\n' not in str(error.value)


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
  with pytest.raises(ValueError, match='it holds an archive of several arrays'):
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
