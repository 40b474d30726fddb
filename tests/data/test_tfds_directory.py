"""Tests of `dpoq_jax.data.tfds_directory`, most of them by way of `in_memory.load`."""

import json
import os
import pathlib
import re
import shlex

import pytest

from dpoq_jax.data import corrupt_records, in_memory, streamed, tfds_directory
from tests.data.tiny_cifar import TinyCifar, prepared
from tests.end_to_end import runs

NAME = 'tiny_imagenet'


def test_names_of_all_kinds(jpeg_data_dir: pathlib.Path, tmp_path: pathlib.Path):
  version = jpeg_data_dir / NAME / '1.0.0'
  for name in (NAME, f'{NAME}/1.0.0', f'{NAME}:1.0.0', str(version)):
    assert tfds_directory.newest_version(name, jpeg_data_dir, allowed='') == version
  # The newest version, by number.
  for number in ('1.9.0', '1.10.0'):
    (tmp_path / NAME / 'config' / number).mkdir(parents=True)
    (tmp_path / NAME / 'config' / number / 'dataset_info.json').touch()
  assert tfds_directory.newest_version(f'{NAME}/config', tmp_path, allowed='').name == '1.10.0'


class TestPrepared:
  def test_the_default_directory_is_that_of_tfds(
    self, tiny_cifar10: TinyCifar, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
  ):
    prepared(tiny_cifar10, tmp_path / 'here')
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'here'))
    assert len(in_memory.load('cifar10', 'train')) == len(tiny_cifar10.records['train'])
    monkeypatch.delenv('TFDS_DATA_DIR')
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'here').rename(tmp_path / 'tensorflow_datasets')
    assert len(in_memory.load('cifar10', 'test')) == len(tiny_cifar10.records['test'])

  def test_a_missing_data_set_gets_the_command_that_writes_it(
    self, tiny_cifar10: TinyCifar, tmp_path: pathlib.Path
  ):
    data_dir = tmp_path / 'my data'
    with pytest.raises(FileNotFoundError) as error:
      in_memory.load('cifar10', 'train', data_dir)
    message = str(error.value)
    assert message == (
      f'data set cifar10 not found in {data_dir}: give --config.data.dir=DIR, where it is, or run '
      f"dpoq prepare cifar10 --data-dir='{data_dir}'"
    )
    # What it says works, as a shell reads it.
    command = shlex.split(message.partition(', or run ')[2])
    assert command[:2] == ['dpoq', 'prepare']
    assert runs.status_of('prepare', *command[2:], f'--source={tiny_cifar10.parent}') == 0
    assert len(in_memory.load('cifar10', 'train', data_dir)) == 100

  def test_tfrecords_are_refused(self, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / 'cifar10/3.0.2'
    path.mkdir(parents=True)
    # As TFDS wrote it before there were other formats, and as it does since.
    for file_format in ({}, {'fileFormat': 'tfrecord'}):
      info = {'splits': [{'name': 'train', 'shardLengths': ['50000']}], **file_format}
      (path / 'dataset_info.json').write_text(json.dumps(info))
      with pytest.raises(ValueError, match='stored as tfrecord, which only TensorFlow reads'):
        in_memory.load('cifar10', 'train', tmp_path)
      assert runs.status_of('prepare', 'cifar10', f'--data-dir={tmp_path}') == 2
      assert '--data-dir=OTHER_DIRECTORY' in capsys.readouterr().err

  @pytest.mark.parametrize('content', [None, '', '{"name": "cifar10"'])
  def test_a_directory_without_its_description_is_refused(
    self, tmp_path: pathlib.Path, content: str | None
  ):
    path = tmp_path / 'cifar10/3.0.2'
    path.mkdir(parents=True)
    if content is not None:
      (path / 'dataset_info.json').write_text(content)
    with pytest.raises(
      FileNotFoundError, match=f'{path} has no readable dataset_info.json: delete'
    ):
      in_memory.load('cifar10', 'train', tmp_path)

  def test_a_missing_shard_is_noticed(self, tiny_cifar10: TinyCifar, tmp_path: pathlib.Path):
    (shard,) = prepared(tiny_cifar10, tmp_path).glob('*-test.array_record-*')
    shard.unlink()
    with pytest.raises(FileNotFoundError, match='lacks test files: delete that directory'):
      in_memory.load('cifar10', 'train', tmp_path)

  @pytest.mark.parametrize('names', [[], ['test'], ['training', 'test'], ['', 'test']])
  def test_a_split_that_is_not_described_is_noticed(
    self, tiny_cifar10: TinyCifar, tmp_path: pathlib.Path, names: list[str]
  ):
    version = prepared(tiny_cifar10, tmp_path)
    info = version / 'dataset_info.json'
    content = json.loads(info.read_text())
    (test,) = (each for each in content['splits'] if each['name'] == 'test')
    others = [{**test, 'name': name, 'shardLengths': []} for name in names if name != 'test']
    content['splits'] = [*others, *([test] if 'test' in names else [])]
    info.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f'data set cifar10 in {version} is damaged: delete'):
      in_memory.load('cifar10', 'train', tmp_path)
    options, tally = streamed.Options(32, 36), corrupt_records.Tally(0)
    with pytest.raises(ValueError, match=r"^data set cifar10/3.0.2 .*(no split 'train'|damaged)"):
      streamed.load('cifar10/3.0.2', 'train', tmp_path, options, tally)

  @pytest.mark.parametrize('name', ['/cifar10', '**x', '../cifar10', '[c]ifar10', 'cifar*', '\0'])
  def test_a_name_that_is_no_start_of_a_file_is_noticed(
    self, tiny_cifar10: TinyCifar, tmp_path: pathlib.Path, name: str
  ):
    info = prepared(tiny_cifar10, tmp_path) / 'dataset_info.json'
    info.write_text(json.dumps(json.loads(info.read_text()) | {'name': name}))
    with pytest.raises(FileNotFoundError, match='lacks train files: delete that directory'):
      in_memory.load('cifar10', 'train', tmp_path)

  def test_a_pipe_is_not_waited_for(self, tiny_cifar10: TinyCifar, tmp_path: pathlib.Path):
    version = prepared(tiny_cifar10, tmp_path)
    names = [path.name for path in version.iterdir()]
    assert {'dataset_info.json', 'features.json', 'label.labels.txt'} < set(names)
    options, tally = streamed.Options(32, 36), corrupt_records.Tally(0)
    for name in names:
      (version / name).rename(tmp_path / 'kept')
      os.mkfifo(version / name)
      message = f'damaged: .*{re.escape(name)} is no regular file'
      with pytest.raises(ValueError, match=message):
        in_memory.load('cifar10', 'train', tmp_path)
      with pytest.raises(ValueError, match=message):
        streamed.load('cifar10/3.0.2', 'train', tmp_path, options, tally)
      (tmp_path / 'kept').rename(version / name)

  @pytest.mark.parametrize('found', [19, 21])
  def test_files_of_more_or_fewer_records_than_described_are_refused(
    self, tiny_cifar10: TinyCifar, tmp_path: pathlib.Path, found: int
  ):
    # TFDS believes the description: with fewer, records were left out without a word.
    info = prepared(tiny_cifar10, tmp_path) / 'dataset_info.json'
    content = json.loads(info.read_text())
    (test,) = (each for each in content['splits'] if each['name'] == 'test')
    assert test['shardLengths'] == ['20']
    test['shardLengths'] = [str(found)]
    info.write_text(json.dumps(content))
    message = f'its test files hold 20 records, dataset_info.json says {found}'
    with pytest.raises(ValueError, match=message):
      in_memory.load('cifar10', 'test', tmp_path)
    options, tally = streamed.Options(32, 36), corrupt_records.Tally(0)
    for split in ('test', 'test[:5]', 'train[:50%]+test'):
      with pytest.raises(ValueError, match=message):
        streamed.load('cifar10/3.0.2', split, tmp_path, options, tally)
    # The other split is whole.
    assert len(in_memory.load('cifar10', 'train', tmp_path)) == 100
    assert len(streamed.load('cifar10/3.0.2', 'train', tmp_path, options, tally)) == 100

  def test_no_memory_is_taken_for_images_of_a_shape_that_none_has(
    self, tiny_cifar10: TinyCifar, tmp_path: pathlib.Path
  ):
    features = prepared(tiny_cifar10, tmp_path) / 'features.json'
    content = features.read_text()
    assert content.count('"32"') == 2
    features.write_text(content.replace('"32"', '"2147483648"', 1))
    with pytest.raises(ValueError, match=r'record 0 is an image of \[32, 32, 3\], not \[2147'):
      in_memory.load('cifar10', 'train', tmp_path)

  @pytest.mark.parametrize('key', ['pythonClassName', 'python_class_name', 'type'])
  def test_no_module_that_a_data_set_names_is_imported(
    self,
    tiny_cifar10: TinyCifar,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
  ):
    features = prepared(tiny_cifar10, tmp_path) / 'features.json'
    (tmp_path / 'modules').mkdir()
    (tmp_path / 'modules' / 'foreign.py').write_text('raise SystemExit("it was run")')
    monkeypatch.syspath_prepend(tmp_path / 'modules')
    content = json.loads(features.read_text())
    label = content['featuresDict']['features']['label']
    del label['pythonClassName']
    label |= {key: 'foreign.Label', 'content': {}}
    features.write_text(json.dumps(content))
    message = r'names foreign.Label, which is none of tensorflow_datasets\.core\.features\.'
    for load in (
      lambda: in_memory.load('cifar10', 'train', tmp_path),
      lambda: streamed.load(
        'cifar10/3.0.2', 'train', tmp_path, streamed.Options(32, 36), corrupt_records.Tally(0)
      ),
    ):
      with pytest.raises(ValueError, match=message):
        load()
