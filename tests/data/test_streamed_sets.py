"""Which data sets and splits `dpoq_jax.data.streamed` reads, and what it says of the others."""

import dataclasses
import json
import pathlib

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from dpoq_jax.data import corrupt_records, streamed
from tests.data import jpegs
from tests.data.tiny_imagenet import NAME, OPTIONS, load


class TestSplits:
  def test_only_what_is_not_given_is_chosen(self, tmp_path: pathlib.Path):
    records = list(jpegs.examples('validation'))
    kept = {'train': records[:6], 'validation': records[6:9], 'test': records[9:]}
    jpegs.write(tmp_path, kept)
    for given, used in {None: 'validation', 'validation': 'validation', 'test': 'test'}.items():
      found = load(tmp_path, given)
      assert (found.split, len(found)) == (used, len(kept[used]))
      assert found.take(np.array([0])).split == used

  def test_a_set_with_one_split_is_used_in_parts(self, tmp_path: pathlib.Path):
    jpegs.write(tmp_path, {'train': list(jpegs.examples('train'))})
    with pytest.raises(
      ValueError, match=r"no split to report on, only train: .*train_split='train\[:90%\]'"
    ):
      load(tmp_path, None)
    train, test = load(tmp_path, 'train[:90%]'), load(tmp_path, 'train[90%:]')
    assert (len(train), len(test), test.split) == (54, 6, 'train[90%:]')
    names = [{r['file_name'] for r in part.records.source} for part in (train, test)]
    assert [len(each) for each in names] == [54, 6]
    assert not names[0] & names[1]
    (batch,) = test.evaluation_batches(6)
    assert batch['mask'].all()
    for split in ('train[', 'train[90%', 'train[x:]', 'other[:5]', 'train[-1000000:]5', ''):
      with pytest.raises(ValueError, match=r'has no split .*: it has train, and parts of them'):
        load(tmp_path, split)
    with pytest.raises(ValueError, match=r'there are no examples in train\[100%:\]'):
      load(tmp_path, 'train[100%:]')

  def test_no_example_is_both_trained_and_reported_on(self, jpeg_data_dir: pathlib.Path):
    for trained, reported_on in (
      ('train', None), ('train[:50%]', 'train[50%:]'), ('train', 'validation'),
      ('train[:30]', 'train[31:]+validation'),
    ):  # fmt: skip
      streamed.check_apart(NAME, jpeg_data_dir, trained, reported_on)
    for trained, reported_on in (
      ('train', 'train[90%:]'), ('train[:31]', 'train[30:]'), ('train+validation', None),
      ('train', 'train'),
    ):  # fmt: skip
      with pytest.raises(ValueError, match=f'data set {NAME} share examples: give parts'):
        streamed.check_apart(NAME, jpeg_data_dir, trained, reported_on)


class TestErrors:
  def test_images_of_floats_are_refused(self, copied: pathlib.Path):
    # TFDS keeps a float as the four bytes of a pixel, in a PNG with transparency.
    path = copied / NAME / '1.0.0' / 'features.json'
    described = path.read_text()
    for old, new in (('"uint8"', '"float32"'), ('"jpeg"', '"png"'), ('"3"', '"1"')):
      assert old in described
      described = described.replace(old, new)
    path.write_text(described)
    with pytest.raises(ValueError, match='images of float32: only uint8 and uint16 are read'):
      load(copied)

  def test_images_of_sixteen_bits_are_scaled(self, tmp_path: pathlib.Path):
    pixels = np.linspace(0, 65535, 1600).astype(np.uint16).reshape(40, 40)
    record = {'image': jpegs.encode(Image.fromarray(pixels), 'png'), 'label': 1}
    features = {
      'image': tfds.features.Image(shape=(40, 40, 1), dtype=np.uint16, encoding_format='png'),
      'label': tfds.features.ClassLabel(names=jpegs.CLASSES),
    }
    jpegs.write(tmp_path, {'test': [record, record]}, features)
    test = load(tmp_path, None)
    whole = dataclasses.replace(test, options=streamed.Options(image_size=40, resize=40))
    np.testing.assert_array_equal(whole.images[0][..., 0], np.rint(pixels / 257))

  def test_descriptions_of_another_shape_are_one_line(self, copied: pathlib.Path):
    version = copied / NAME / '1.0.0'
    for file, text in (
      ('features.json', '{"pythonClassName": "no.such.Class"}'), ('features.json', '[]'),
      ('dataset_info.json', '[]'), ('dataset_info.json', '{"splits": [1]}'),
    ):  # fmt: skip
      whole = (version / file).read_text()
      (version / file).write_text(text)
      with pytest.raises((ValueError, FileNotFoundError), match=f'data set {NAME} in ') as error:
        load(copied)
      assert '\n' not in str(error.value)
      (version / file).write_text(whole)

  def test_a_missing_set(self, tmp_path: pathlib.Path):
    with pytest.raises(
      FileNotFoundError,
      match=rf'data set imagenet2012 in {tmp_path} not found: .* digits, cifar10, cifar100',
    ):
      streamed.load('imagenet2012', 'train', tmp_path, OPTIONS, corrupt_records.Tally(0))
    with pytest.raises(FileNotFoundError, match=r'data set /no/such/1\.0\.0 not found'):
      streamed.load('/no/such/1.0.0', 'train', tmp_path, OPTIONS, corrupt_records.Tally(0))

  def test_tfrecords_are_refused_with_the_command_that_converts_them(self, copied: pathlib.Path):
    version = copied / NAME / '1.0.0'
    info = json.loads((version / 'dataset_info.json').read_text())
    (version / 'dataset_info.json').write_text(json.dumps(info | {'fileFormat': 'tfrecord'}))
    with pytest.raises(
      ValueError, match='stored as tfrecord, which only TensorFlow reads'
    ) as error:
      load(copied)
    assert str(error.value).endswith(
      f'run tfds convert_format --dataset_version_dir={version} --out_file_format=array_record'
    )
    assert '\n' not in str(error.value)

  def test_a_missing_shard_is_noticed(self, copied: pathlib.Path):
    next((copied / NAME / '1.0.0').glob('*-train.array_record-*')).unlink()
    with pytest.raises(FileNotFoundError, match=f'data set {NAME} in .* lacks train files'):
      load(copied)

  def test_an_unknown_split(self, jpeg_data_dir: pathlib.Path):
    with pytest.raises(ValueError, match="has no split 'holdout': it has train, validation"):
      load(jpeg_data_dir, 'holdout')

  @pytest.mark.parametrize(
    'features',
    [
      {'picture': tfds.features.Image(), 'label': tfds.features.ClassLabel(num_classes=3)},
      {'image': tfds.features.Image(), 'objects': tfds.features.Text()},
      {'image': tfds.features.Image(), 'label': tfds.features.Text()},
    ],
  )
  def test_a_set_that_is_no_classification_is_refused(self, tmp_path: pathlib.Path, features):
    encoded = jpegs.encode(Image.new('RGB', (40, 40)))
    record = {
      name: encoded
      if isinstance(feature, tfds.features.Image)
      else 1
      if 'Label' in str(feature)
      else 'text'
      for name, feature in features.items()
    }
    jpegs.write(tmp_path, {'train': [record, record]}, features)
    with pytest.raises(ValueError, match=f'has features {", ".join(sorted(features))}: to be'):
      load(tmp_path)
