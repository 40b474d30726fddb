import doctest
import json
import os
import pathlib
from typing import Any

import numpy as np
import pytest

from dpoq_jax import export
from dpoq_jax.deploy import export_folder, graph_folder
from dpoq_jax.inference import operating_point, records
from tests.deploy.rewriting import rewritten


def half_write(folder: pathlib.Path) -> None:
  (folder / 'half').touch()
  folder.write_bytes(b'')


@pytest.mark.parametrize('was_there', [True, False])
def test_an_export_that_fails_can_be_started_again(was_there: bool, tmp_path: pathlib.Path):
  folder = tmp_path / 'export'
  if was_there:
    folder.mkdir()
  with pytest.raises(IsADirectoryError), export_folder.emptied_on_failure(folder):
    half_write(folder)
  assert folder.exists() == was_there
  with export_folder.emptied_on_failure(folder):
    (folder / 'whole').touch()
  # What is there already is not touched.
  refused = pytest.raises(FileExistsError, match='give another folder')
  with refused, export_folder.emptied_on_failure(folder):
    pass
  assert [path.name for path in folder.iterdir()] == ['whole']


def graphs(folder: pathlib.Path) -> dict[str, Any]:
  return {
    f'{kind}s': [
      export_folder.write_graph(folder / f'{kind}_{bits}.onnx', bits, b'a graph') for bits in (2, 4)
    ]
    for kind in ('path', 'precision')
  }


POINT = {
  'bits': [2, 4],
  'thresholds': {'2': 0.5, '4': 0.0},
  'temperatures': {'2': 1.5, '4': 1},
  'weights': {'2': [1], '4': [0.5, 0.0]},
}
FIELDS: dict[str, Any] = {
  'bits': (2, 4), 'image_shape': (8, 8, 3), 'classes': 3, 'class_names': ('cat', 'dog', 'cow'),
  'operating_points': (POINT,), 'source': {'dataset': 'digits', 'step': 7},
}  # fmt: skip


def changed(field: str, **by_precision: Any) -> dict[str, Any]:
  """The operating point with other entries in one of its mappings."""
  entries = {bits.removeprefix('b'): entry for bits, entry in by_precision.items()}
  return {'operating_points': [{**POINT, field: {**POINT[field], **entries}}]}


@pytest.mark.parametrize(
  ('fields', 'expected'),
  [
    ({'class_names': 'cat'}, "class_names='cat': give 3 names"),
    ({'class_names': ('cat', 'dog')}, 'give 3 names'),
    ({'class_names': (1, 2, 3)}, r'class_names is \[1, 2, 3\]: a list of str'),
    ({'image_shape': (-8, 8, 3)}, r'image_shape is \[-8, 8, 3\]: three numbers from 1'),
    ({'image_shape': (8, 8)}, 'image_shape'),
    ({'image_shape': (8, 8, True)}, 'image_shape'),
    ({'bits': (4, 2)}, 'bits'),
    ({'bits': ()}, 'bits'),
    ({'bits': (2, 8)}, r'paths are not those of bits=\[2, 8\]'),
    ({'operating_points': [{**POINT, 'bits': [2]}]}, r'operating point is for bits=\[2\]'),
    (changed('temperatures', b2=0), 'temperatures of 2 bits is 0: a finite number above 0'),
    (changed('temperatures', b4=-1.0), 'temperatures of 4 bits is -1.0'),
    (changed('temperatures', b4=float('nan')), 'temperatures of 4 bits is nan'),
    (changed('temperatures', b4=True), 'temperatures of 4 bits is True'),
    (changed('temperatures', b4='1'), "temperatures of 4 bits is '1'"),
    (changed('thresholds', b4=float('inf')), 'thresholds of 4 bits is inf'),
    (changed('thresholds', b2=-0.1), 'thresholds of 2 bits is -0.1'),
    (changed('weights', b4=[float('inf'), 1]), r'weights of 4 bits is \[inf, 1\]'),
    (changed('weights', b4=[1e308, 1e308]), 'weights of 4 bits'),
    (changed('weights', b4=[0, 0]), 'not all 0'),
    (changed('weights', b4=[1]), '2 finite numbers'),
    (changed('weights', b2=10**400), 'weights of 2 bits'),
    ({'operating_points': [{**POINT, 'weights': [1, 2]}]}, 'has no weights for 2 bits'),
  ],
)
def test_a_manifest_that_makes_no_sense_is_not_written(
  fields: dict[str, Any], expected: str, tmp_path: pathlib.Path
):
  with pytest.raises(ValueError, match=expected) as refused:
    export_folder.write_manifest(tmp_path, **{**FIELDS, **fields}, **graphs(tmp_path))
  assert '\n' not in str(refused.value)
  assert not (tmp_path / 'manifest.json').exists()


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
  export_folder.write_manifest(tmp_path, **FIELDS, marker=1, **graphs(tmp_path))
  return tmp_path


def read(folder: pathlib.Path) -> list[bytes]:
  manifest = graph_folder.read(folder, 'graphs', 'marker')
  return [graph_folder.read_file(folder, each) for each in manifest['paths']]


@pytest.mark.parametrize(
  ('change', 'expected'),
  [
    (lambda m: m.pop('bits'), r'manifest\.json: bits is None: a list of int is allowed'),
    (lambda m: m.pop('marker'), 'not the manifest of graphs: it has no marker'),
    (lambda m: m.update(format=1), 'is of format 1; this version reads 2: export anew'),
    (lambda m: m.update(format=10**30), 'this version reads 2: upgrade it'),
    (lambda m: m.update(format=2.0), 'not the manifest of graphs'),
    (lambda m: m['paths'][0].update(file='../path_2.onnx'), 'paths of 2 bits: file is'),
    (lambda m: m['paths'][0].update(file='path_4.onnx'), 'paths of 2 bits: file is'),
    (lambda m: m['paths'][0].update(sha256='0'), 'paths of 2 bits: sha256 is'),
    (lambda m: m['paths'][0].update(bytes='0'), 'paths of 2 bits: bytes is'),
    (lambda m: m['paths'][0].update(bytes=8), r'path_2\.onnx was altered: .* 8 bytes'),
    (lambda m: m['paths'][1].update(sha256='0' * 64), r'path_4\.onnx was altered: its digest'),
    (lambda m: m['class_names'].append(['x' * 10**6]), 'a list of str'),
  ],
)
def test_a_manifest_that_lies_is_refused(change, expected: str, folder: pathlib.Path):
  assert read(folder) == [b'a graph'] * 2
  rewritten(folder, change)
  with pytest.raises(ValueError, match=expected) as refused:
    read(folder)
  assert len(str(refused.value)) < 500


@pytest.mark.parametrize('text', ['', '[]', '1' * 5000, '[' * 100_000, '\udcff', '{"format": NaN}'])
def test_what_is_no_manifest_is_refused(text: str, folder: pathlib.Path):
  (folder / 'manifest.json').write_text(text, errors='surrogateescape')
  with pytest.raises(ValueError, match=r'manifest\.json is not'):
    read(folder)


@pytest.mark.parametrize('name', ['manifest.json', 'path_2.onnx'])
def test_what_is_no_regular_file_is_not_waited_for(name: str, folder: pathlib.Path):
  (folder / name).unlink()
  os.mkfifo(folder / name)
  with pytest.raises(ValueError, match=f'{name} is no regular file'):
    read(folder)


@pytest.mark.parametrize('number', [float('nan'), float('inf')])
def test_a_network_that_diverged_is_not_exported(number: float, tmp_path: pathlib.Path):
  params = {'path_2': {'head': {'bias': np.array([0, number], np.float32)}}}
  variables = {'params': params, 'onion': {}}
  with pytest.raises(ValueError, match='params/path_2/head/bias is not finite'):
    export_folder.make_for_frozen(tmp_path / 'export', variables)
  assert not (tmp_path / 'export').exists()


def test_manifests_do_not_say_where_a_data_set_is():
  outcome = doctest.testmod(records)
  assert (outcome.failed, outcome.attempted) == (0, 2)
  point = operating_point.static((2, 4), 2)
  assert export._to_ship(point)['data'] is None
  chosen_on = operating_point.Provenance(
    dataset='~/data/mine/1.0.0', step=7, calibration='some', reported='others'
  )
  shipped = export._to_ship(point.model_copy(update={'data': chosen_on}))
  assert shipped['data']['dataset'] == 'mine/1.0.0'
  assert operating_point.from_json(json.dumps(shipped)).data is not None
