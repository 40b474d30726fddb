import json
import pathlib

import pytest

from dpoq_jax import config as config_lib
from dpoq_jax.runtime import workdir

FACTS = workdir.DatasetFacts((8, 8, 1), ('a', 'ä'))
CONFIG = json.loads(config_lib.Config().model_dump_json())


@pytest.mark.parametrize(
  'name', ['w [bold]/r', 'a*', 'a?b', 'a\\b', 'a\nb', 'a\x1b[2Jb', 'a\x7f', '\udcff', 'gs:/x']
)
def test_a_path_that_storage_reads_otherwise_is_refused(tmp_path: pathlib.Path, name: str):
  path = tmp_path / name
  refused = pytest.raises(ValueError, match='checkpoints cannot be stored under a path with')
  with refused, workdir.claim(path, config_lib.Config()):
    pass
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('name', ['a b', '{a}', 'ä', "it's", 'a%20b', '#1', 'a:b', '$HOME', '~'])
def test_any_other_path_will_do(tmp_path: pathlib.Path, name: str):
  with workdir.claim(tmp_path / name, config_lib.Config()):
    assert workdir.read_config(tmp_path / name) == config_lib.Config()


@pytest.mark.parametrize(
  'path', ['seed', 'epochs', 'data', 'data.pad', 'quantization.bits', 'optimizer.momentum']
)
def test_a_config_file_that_lost_a_field_is_no_config(tmp_path: pathlib.Path, path: str):
  fields = json.loads(json.dumps(CONFIG))
  *sections, name = path.split('.')
  holder = fields
  for section in sections:
    holder = holder[section]
  del holder[name]
  for text, missing in ((json.dumps(fields), path), ('{}', 'seed')):
    (tmp_path / 'config.json').write_text(text)
    with pytest.raises(config_lib.ConfigError, match=rf'config\.json: config\.{missing}.*missing'):
      workdir.read_config(tmp_path)


def test_files_of_earlier_versions_are_read(tmp_path: pathlib.Path):
  fields = json.loads(json.dumps(CONFIG))
  del fields['steps_per_dispatch'], fields['objective']['teacher'], fields['data']['dir']
  (tmp_path / 'config.json').write_text(json.dumps(fields))
  assert workdir.read_config(tmp_path) == config_lib.Config()


def test_facts_survive_a_round_trip(tmp_path: pathlib.Path):
  workdir.write_dataset(tmp_path, FACTS)
  assert workdir.read_dataset(tmp_path) == FACTS


@pytest.mark.parametrize(
  'changed',
  [
    {'image_shape': [-8, 8, 1]},
    {'image_shape': [8, 8, 0]},
    {'image_shape': [8, 8]},
    {'image_shape': [8.5, 8, 1]},
    {'image_shape': [10**9, 8, 1]},
    {'image_shape': [True, 8, 1]},
    {'class_names': 'ab'},
    {'class_names': []},
    {'class_names': [1, 2]},
    {'other': 1},
  ],
)
def test_facts_that_cannot_be_are_refused(tmp_path: pathlib.Path, changed: dict):
  facts = {'image_shape': [8, 8, 1], 'class_names': ['a', 'b'], **changed}
  (tmp_path / 'dataset.json').write_text(json.dumps(facts))
  with pytest.raises(ValueError, match=r'dataset\.json does not describe a data set'):
    workdir.read_dataset(tmp_path)
