"""Tests of `dpoq_jax.data.in_memory`."""

import collections
import pathlib

import numpy as np
import pytest

from dpoq_jax.data import in_memory
from tests.data.tiny_cifar import TinyCifar, prepared


def image_set(images=None, labels=None, class_names=('a', 'b')) -> in_memory.ImageSet:
  images = np.zeros((3, 4, 5, 1), np.uint8) if images is None else images
  labels = np.array([0, 1, 0], np.int32) if labels is None else labels
  return in_memory.ImageSet(images, labels, class_names)


class TestImageSet:
  def test_counts(self):
    assert len(image_set()) == 3
    assert image_set().num_classes == 2

  @pytest.mark.parametrize(
    ('arguments', 'message'),
    [
      ({'images': np.zeros((3, 4, 5, 1), np.float32)}, r'images are float32\[3, 4, 5, 1\]'),
      ({'images': np.zeros((3, 4, 5), np.uint8)}, r'images are uint8\[3, 4, 5\]'),
      ({'labels': np.zeros(3, np.int64)}, r'labels are int64\[3\]'),
      ({'labels': np.zeros(2, np.int32)}, r'labels are int32\[2\], not int32 \[3\]'),
      ({'labels': np.array([0, 1, 2], np.int32)}, 'from 0 to 2, but there are 2 class names'),
      ({'labels': np.array([0, 1, -1], np.int32)}, 'from -1 to 1'),
    ],
  )
  def test_refuses_what_is_not_a_labelled_image_set(self, arguments, message):
    with pytest.raises(ValueError, match=message):
      image_set(**arguments)


class TestDigits:
  def test_the_splits_share_out_all_1797_digits(self):
    from sklearn import datasets

    splits = [in_memory.load('digits', split) for split in in_memory.SPLITS]
    assert [len(split) for split in splits] == [1437, 360]
    pixels, labels = datasets.load_digits(return_X_y=True)
    # 255 / 16 of 0..16, rounded half to even.
    scale = [0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255]
    expected = collections.Counter(
      (bytes(np.array(scale, np.uint8)[image.astype(int)]), label)
      for image, label in zip(pixels, labels, strict=True)
    )
    assert expected == collections.Counter(
      (image.tobytes(), label)
      for split in splits
      for image, label in zip(split.images, split.labels, strict=True)
    )

  def test_every_class_gives_a_fifth_to_the_test_split(self):
    train, test = (in_memory.load('digits', split).labels for split in in_memory.SPLITS)
    share = np.bincount(test) / (np.bincount(train) + np.bincount(test))
    np.testing.assert_allclose(share, 0.2, atol=0.005)

  def test_the_split_never_changes(self):
    # Accuracies of different releases are comparable only on the same test images.
    labels = in_memory.load('digits', 'test').labels
    assert labels[:12].tolist() == [7, 6, 3, 7, 7, 3, 2, 8, 9, 3, 2, 6]

  def test_what_it_says_of_itself(self):
    digits = in_memory.load('digits', 'train')
    assert digits.class_names == tuple('0123456789')
    assert digits.images.shape[1:] == in_memory.DATASETS['digits'].image_shape
    assert (digits.images.min(), digits.images.max()) == (0, 255)


class TestTfds:
  @pytest.mark.parametrize('split', in_memory.SPLITS)
  def test_names_come_from_the_metadata(
    self, tiny_cifar100: TinyCifar, tmp_path: pathlib.Path, split: str
  ):
    prepared(tiny_cifar100, tmp_path)
    loaded = in_memory.load('cifar100', split, tmp_path)
    assert loaded.class_names == tiny_cifar100.class_names
    assert loaded.num_classes == in_memory.DATASETS['cifar100'].num_classes
    assert loaded.images.shape[1:] == in_memory.DATASETS['cifar100'].image_shape
    # Fine labels, in whatever order.
    fine = tiny_cifar100.records[split][:, 1]
    np.testing.assert_array_equal(np.sort(loaded.labels), np.sort(fine))


class TestErrors:
  def test_unknown_name(self):
    with pytest.raises(
      ValueError, match=r'there are digits, cifar10, cifar100; did you mean digits\?'
    ):
      in_memory.load('digit', 'train')

  def test_unknown_split(self):
    with pytest.raises(ValueError, match="'validation': a data set in memory has train and test"):
      in_memory.load('digits', 'validation')

  @pytest.mark.parametrize('damage', ['truncated', 'altered'])
  def test_a_damaged_shard_is_noticed(
    self, tiny_cifar10: TinyCifar, tmp_path: pathlib.Path, damage: str
  ):
    (shard,) = prepared(tiny_cifar10, tmp_path).glob('*-test.array_record-*')
    content = bytearray(shard.read_bytes())
    if damage == 'truncated':
      content = content[: len(content) // 2]
    else:
      content[len(content) // 4] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ValueError, match='is damaged: delete that directory and run dpoq'):
      in_memory.load('cifar10', 'test', tmp_path)
