"""Exports of a network that is no run: an artifact, or one that comes with the library."""

import hashlib
import json
import pathlib
import shutil

import numpy as np
import pytest

from dpoq_jax import pretrained
from dpoq_jax.deploy import stablehlo
from dpoq_jax.deploy.artifact import manifest as manifest_lib
from dpoq_jax.deploy.onnx import graph_network
from tests import npm
from tests.end_to_end import runs


@pytest.fixture(scope='module')
def artifact(resnet_run: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Returns an artifact that keeps the ranges of 100 images."""
  folder = tmp_path_factory.mktemp('artifact') / 'rings'
  done = runs.call(
    'export', f'--workdir={resnet_run}', f'--output={folder}', '--calibration-images=100'
  )
  assert done.returncode == 0, done.stderr
  return folder


def test_graphs_of_an_artifact_are_those_of_its_run(
  artifact: pathlib.Path, resnet_run: pathlib.Path, tmp_path: pathlib.Path
):
  for name, flags in (
    ('of_run', (f'--workdir={resnet_run}', '--calibration-images=100')),
    ('of_artifact', (f'--artifact={artifact}',)),
  ):
    done = runs.call('export', *flags, f'--output={tmp_path / name}', '--format=onnx')
    assert done.returncode == 0, done.stderr
  files = [
    {
      path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
      for path in folder.rglob('*.*')
    }
    for folder in (tmp_path / 'of_run', tmp_path / 'of_artifact')
  ]
  assert {'path_2.onnx', 'precision_4.onnx', 'cascade.onnx', 'manifest.json'} <= files[0].keys()
  assert files[0] == files[1]


@pytest.mark.parametrize('name', pretrained.names())
def test_all_that_come_with_the_library_keep_their_ranges(name: str):
  manifest = manifest_lib.read(pretrained.folder(name))
  assert manifest.ranges is not None
  assert manifest.ranges.images == 512


def test_what_comes_with_the_library_is_exported_without_data(tmp_path: pathlib.Path):
  folder = tmp_path / 'graphs'
  done = runs.call(
    'export', '--pretrained=digits_resnet8', f'--output={folder}', '--format=onnx'
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  manifest = json.loads((folder / 'manifest.json').read_text())
  assert manifest['calibration_images'] == 512
  assert manifest['source']['dataset'] == 'digits'
  found = graph_network.Network(folder).predict(np.zeros((1, 8, 8, 1), np.uint8))
  assert found.labels.shape == (1,)


def test_a_page_of_an_artifact_has_points_of_rising_confidence(
  artifact: pathlib.Path, tmp_path: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
):
  runtime = npm.runtime_folder(tmp_path_factory)
  folder = tmp_path / 'page'
  done = runs.call(
    'export', f'--artifact={artifact}', f'--output={folder}', '--format=web', f'--runtime={runtime}'
  )
  assert done.returncode == 0, done.stderr
  content = json.loads((folder / 'network.json').read_text())
  thresholds = [point['thresholds']['2'] for point in content['points']]
  assert thresholds[0] == 0
  assert thresholds[-1] > 1
  assert thresholds == sorted(thresholds)
  assert content['images'] == []


@pytest.mark.parametrize(
  ('flags', 'expected'),
  [
    ((), 'give one of --workdir=DIR, --artifact=FOLDER and --pretrained=NAME'),
    (('--pretrained=cifar10_resnet9',), 'no pretrained network cifar10_resnet9'),
    (('--pretrained=digits_resnet8',), 'an artifact has the format onion already'),
    (('--pretrained=digits_resnet8', '--format=onnx', '--step=3'), '--step is of no use without'),
    (
      ('--pretrained=digits_resnet8', '--format=web', '--test-images=3'),
      '--test-images is of no use without --workdir',
    ),
  ],
)
def test_what_an_artifact_has_no_use_for_is_refused(
  flags: tuple[str, ...], expected: str, tmp_path: pathlib.Path
):
  status, err = runs.refused('export', *flags, f'--output={tmp_path / "to"}')
  assert status == 2
  assert err.startswith('error: ')
  assert expected in err
  assert not (tmp_path / 'to').exists()


def test_an_artifact_without_ranges_has_no_integer_graphs(
  resnet_run: pathlib.Path, tmp_path: pathlib.Path
):
  folder = tmp_path / 'rings'
  done = runs.call('export', f'--workdir={resnet_run}', f'--output={folder}')
  assert done.returncode == 0, done.stderr
  assert manifest_lib.read(folder).ranges is None
  flags = (f'--artifact={folder}', f'--output={tmp_path / "to"}')
  status, err = runs.refused('export', *flags, '--format=onnx')
  assert status == 2
  assert 'keeps no ranges' in err
  assert not (tmp_path / 'to').exists()
  # What files are resized to before they are cropped goes with all formats.
  cropped = manifest_lib.read(folder).model_copy(update={'resize': 9})
  (folder / manifest_lib.FILE).write_text(manifest_lib.to_json(cropped))
  done = runs.call('export', *flags, '--format=stablehlo')
  assert done.returncode == 0, done.stderr
  assert stablehlo.read(tmp_path / 'to').manifest['resize'] == 9


def test_ranges_of_another_network_are_refused(artifact: pathlib.Path, tmp_path: pathlib.Path):
  folder = pathlib.Path(shutil.copytree(artifact, tmp_path / 'rings'))
  manifest = manifest_lib.read(folder)
  assert manifest.ranges
  ends = dict(list(manifest.ranges.ends.items())[1:])
  fewer = manifest.model_copy(update={'ranges': manifest_lib.Ranges(images=100, ends=ends)})
  (folder / manifest_lib.FILE).write_text(manifest_lib.to_json(fewer))
  flags = (f'--artifact={folder}', f'--output={tmp_path / "to"}', '--format=onnx')
  status, err = runs.refused('export', *flags)
  assert status == 2
  assert 'these ranges are those of another network' in err
  assert len(err.splitlines()) == 1
  assert not (tmp_path / 'to').exists()


def test_a_run_is_no_artifact(resnet_run: pathlib.Path, tmp_path: pathlib.Path):
  flags = (f'--artifact={resnet_run}', f'--output={tmp_path / "to"}', '--format=onnx')
  status, err = runs.refused('export', *flags)
  assert status == 2
  assert 'give a folder that dpoq export wrote' in err
