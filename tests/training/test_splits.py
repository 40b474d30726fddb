"""Tests of `dpoq_jax.training.splits`: where the examples of a set are kept."""

import pathlib

import numpy as np
import pytest

from dpoq_jax import config as config_lib
from dpoq_jax.data import corrupt_records, in_memory, streamed
from dpoq_jax.training import splits
from tests.data import jpegs

# What the 60 training images of 32 x 32 take, and the 13 that are reported on take less.
TRAIN_GB = 60 * 32 * 32 * 3 / 1e9


def config(data_dir: pathlib.Path, memory_gb: float) -> config_lib.Config:
  data = {'name': 'tiny_imagenet', 'dir': str(data_dir), 'image_size': 32, 'holdout': 10}
  return config_lib.Config(data=config_lib.Data(memory_gb=memory_gb, **data))


def test_a_split_that_fits_is_kept_in_memory(jpeg_data_dir: pathlib.Path):
  tally = corrupt_records.Tally(0)
  train, holdout = splits.load_train(config(jpeg_data_dir, TRAIN_GB), tally)
  from_disk = splits.load_train(config(jpeg_data_dir, 0), tally)
  assert isinstance(train, in_memory.ImageSet)
  assert (len(train), len(holdout)) == (50, 10)
  for kept, other in zip((train, holdout), from_disk, strict=True):
    assert isinstance(other, streamed.StreamedSet)
    assert (kept.split, kept.class_names) == (other.split, other.class_names)
    # What evaluation sees is the same, whether it is decoded before or as it is needed.
    for one, two in zip(kept.evaluation_batches(16), other.evaluation_batches(16), strict=True):
      for name, array in one.items():
        np.testing.assert_array_equal(array, two[name])


def test_each_split_is_kept_or_streamed_by_its_own_size(jpeg_data_dir: pathlib.Path):
  tally, given = corrupt_records.Tally(0), config(jpeg_data_dir, TRAIN_GB * 0.99)
  train, test = splits.load_train(given, tally)[0], splits.load_test(given, tally)
  assert splits.whereabouts(train) == '50 images of 32 x 32, 0.154 MB, streamed'
  assert splits.whereabouts(test) == '13 images of 32 x 32, 0.0399 MB, in memory'


def test_corrupt_records_are_left_out_and_counted(tmp_path: pathlib.Path):
  version = jpegs.write(tmp_path)
  jpegs.damage(version, 'train', 5)
  given = config(tmp_path, 1)
  with pytest.warns(UserWarning, match='skipping corrupt record train record'):
    train, holdout = splits.load_train(given, corrupt_records.Tally(1))
  assert len(train) + len(holdout) == 59
  with pytest.raises(corrupt_records.CorruptRecordsError, match='1 corrupt records, more than'):
    splits.load_train(given, corrupt_records.Tally(0))


def test_the_splits_of_a_set_in_memory_may_change_places():
  given = config_lib.Config(data=config_lib.Data(train_split='test', test_split='train'))
  assert config_lib.ineffective(given) == []
  tally = corrupt_records.Tally(0)
  train, test = splits.load_train(given, tally)[0], splits.load_test(given, tally)
  assert (len(train), len(test)) == (360, 1437)


def test_no_memory_is_asked_for_where_images_have_no_size():
  given = config_lib.Config(data=config_lib.Data(memory_gb=1.0))
  assert config_lib.ineffective(given) == [
    'config.data.memory_gb=1.0 has no effect: it needs a streamed set, with data.image_size.'
  ]
