"""Tests of `dpoq_jax.data.in_memory`."""

import collections
import os
import pathlib
from unittest import mock

import numpy as np
import pytest

from dpoq_jax.data import decode, in_memory
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


class TestDecodedOnce:
  @pytest.fixture
  def folder(self, tiny_cifar10: TinyCifar, tmp_path: pathlib.Path) -> pathlib.Path:
    return prepared(tiny_cifar10, tmp_path)

  @pytest.fixture
  def decoding(self, monkeypatch: pytest.MonkeyPatch) -> mock.Mock:
    spy = mock.Mock(wraps=decode.decoded)
    monkeypatch.setattr(decode, 'decoded', spy)
    return spy

  def load(self, tmp_path: pathlib.Path, decoding: mock.Mock) -> tuple[in_memory.ImageSet, bool]:
    """The training split, and whether its images were decoded."""
    decoding.reset_mock()
    loaded = in_memory.load('cifar10', 'train', tmp_path)
    return loaded, decoding.called

  def test_the_second_start_decodes_nothing_and_has_the_same_images(
    self, folder: pathlib.Path, tmp_path: pathlib.Path, decoding: mock.Mock
  ):
    first, was_decoded = self.load(tmp_path, decoding)
    assert was_decoded
    second, was_decoded = self.load(tmp_path, decoding)
    assert not was_decoded
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert (first.class_names, first.split) == (second.class_names, second.split)
    assert type(second.images) is np.ndarray

  @pytest.mark.parametrize('file', ['train_images.npy', 'train_labels.npy', 'train.json'])
  @pytest.mark.parametrize('damage', ['flipped', 'cut', 'gone', 'fifo'])
  def test_what_was_kept_is_trusted_only_if_it_is_whole(
    self,
    folder: pathlib.Path,
    tmp_path: pathlib.Path,
    decoding: mock.Mock,
    file: str,
    damage: str,
  ):
    first, _ = self.load(tmp_path, decoding)
    kept = folder / 'decoded' / file
    content = bytearray(kept.read_bytes())
    kept.unlink()
    if damage == 'flipped':
      content[len(content) * 3 // 4] ^= 1
      kept.write_bytes(content)
    elif damage == 'cut':
      kept.write_bytes(content[: len(content) // 2])
    elif damage == 'fifo':
      os.mkfifo(kept)
    second, was_decoded = self.load(tmp_path, decoding)
    assert was_decoded
    np.testing.assert_array_equal(first.images, second.images)

  def test_a_folder_that_may_only_be_read_is_read(
    self,
    folder: pathlib.Path,
    tmp_path: pathlib.Path,
    decoding: mock.Mock,
    monkeypatch: pytest.MonkeyPatch,
  ):
    # Permissions do not hold for root.
    refuse = mock.Mock(side_effect=PermissionError(13, 'Permission denied'))
    monkeypatch.setattr(pathlib.Path, 'mkdir', refuse)
    for _ in range(2):
      assert self.load(tmp_path, decoding)[1]
    assert not (folder / 'decoded').exists()

  def test_other_records_are_decoded_anew(
    self, folder: pathlib.Path, tmp_path: pathlib.Path, decoding: mock.Mock
  ):
    self.load(tmp_path, decoding)
    (shard,) = folder.glob('*-train.array_record-*')
    content = bytearray(shard.read_bytes())
    content[len(content) // 4] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ValueError, match='is damaged'):
      self.load(tmp_path, decoding)


class TestErrors:
  def test_unknown_name(self):
    with pytest.raises(ValueError, match=r'digits, cifar10, cifar100; did you mean digits\?'):
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
