"""Sections of a config that say which images are seen, and how much of them."""

import pytest

from dpoq_jax import config as config_lib
from dpoq_jax.data import corrupt_records
from dpoq_jax.training import splits
from tests.training.changed import changed


@pytest.mark.parametrize(('size', 'shorter_side'), [(224, 256), (32, 37), (299, 342), (1, 1)])
def test_evaluation_sees_the_usual_share_whatever_the_size(size, shorter_side):
  config = config_lib.validate(changed(data__name='x', data__image_size=size))
  assert config.data.resize == shorter_side
  # A run that wrote the number down is the same run.
  written = config_lib.validate(
    changed(data__name='x', data__image_size=size, data__resize=shorter_side)
  )
  assert written == config == config_lib.from_json(config.model_dump_json())
  other = config_lib.validate(changed(data__name='x', data__image_size=size, data__resize=999))
  assert config_lib.differences(config, other, apart=frozenset()) == [
    f'data.resize: {shorter_side} -> 999'
  ]


def test_sets_in_memory_are_not_resized():
  assert config_lib.validate(changed()).data.resize is None
  # Versions before wrote their default for them, too.
  assert config_lib.validate(changed(data__resize=256)) == config_lib.validate(changed())
  with pytest.raises(config_lib.ConfigError, match=r'^config.data.resize=64: only images of a str'):
    config_lib.validate(changed(data__resize=64))


def test_what_is_cut_off_is_warned_of(jpeg_data_dir):
  fields = {'data__name': 'tiny_imagenet', 'data__dir': str(jpeg_data_dir), 'data__image_size': 32}
  tally = corrupt_records.Tally(0)
  with pytest.warns(UserWarning, match='resize=256: evaluation sees the central 32 of 256 .* 12%'):
    splits.load_test(config_lib.validate(changed(**fields, data__resize=256)), tally)
  # A warning would be an error here.
  for resize in (None, 32, 48):
    splits.load_test(config_lib.validate(changed(**fields, data__resize=resize)), tally)


def test_the_split_that_is_reported_on_is_not_trained_on(jpeg_data_dir):
  fields = {'data__name': 'tiny_imagenet', 'data__dir': str(jpeg_data_dir), 'data__image_size': 32}
  tally = corrupt_records.Tally(0)
  whole = config_lib.validate(changed(**fields, data__test_split='train[90%:]'))
  with pytest.raises(
    ValueError, match=r'train_split=train and .*test_split=train\[90%:\] .* share'
  ):
    splits.load_test(whole, tally)
  fields |= {'data__train_split': 'train[:90%]', 'data__test_split': 'train[90%:]'}
  parts = config_lib.validate(changed(**fields, data__holdout=4))
  train, holdout = splits.load_train(parts, tally)
  test = splits.load_test(parts, tally)
  assert [len(each) for each in (train, holdout, test)] == [50, 4, 6]
  assert (train.split, test.split) == ('train[:90%]', 'train[90%:]')
  with pytest.raises(ValueError, match='train_split=test is reported on, too'):
    splits.load_test(config_lib.validate(changed(data__train_split='test')), tally)
  assert splits.load_test(config_lib.validate(changed()), tally).split == 'test'
