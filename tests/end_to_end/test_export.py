"""A trained run as an artifact, written and read back by the commands."""

import csv
import io
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from dpoq_jax import from_run
from dpoq_jax.data import in_memory
from dpoq_jax.deploy import stablehlo
from dpoq_jax.deploy.artifact import in_jax, rings
from dpoq_jax.inference import operating_point
from dpoq_jax.training import trained_network
from tests import npm
from tests.end_to_end import runs
from tests.tiny_model import TinyNet


def test_a_run_is_exported_and_read_back(resnet_run: pathlib.Path, tmp_path: pathlib.Path):
  folder = tmp_path / 'artifact'
  flags = (f'--workdir={resnet_run}', f'--output={folder}')
  done = runs.call('export', *flags)
  assert done.returncode == 0, done.stderr
  assert sorted(path.name for path in folder.iterdir()) == [
    'manifest.json', 'ring_2.safetensors', 'ring_4.safetensors',
  ]  # fmt: skip

  read, source = rings.load(folder), trained_network.load(resnet_run)
  assert in_jax.network_of(read) == source.network
  test_set = in_memory.load('digits', 'test')
  images = jnp.asarray(test_set.images[:9])
  logits = [source.network.apply(v, images) for v in (read.variables, source.variables)]
  np.testing.assert_array_equal(logits[0], logits[1])
  assert read.manifest.class_names == tuple('0123456789')
  summary = runs.results(resnet_run)['precisions']
  assert [ring.top1 for ring in read.manifest.rings] == [summary[b]['top1'] for b in ('2', '4')]

  (folder / 'ring_4.safetensors').unlink()
  done = runs.call('inspect', str(folder))
  assert done.returncode == 0, done.stderr
  assert f'{100 * summary["4"]["top1"]:.2f}' in done.stdout
  # By hand, ResNet-8 of width 4 on 8x8 images of 1 channel. The stem: 9 * 1 * 64 * 4 = 2304; two
  # layers of 9 * 4 * 64 * 4; 9 * 4 * 16 * 8 and 9 * 8 * 16 * 8; 9 * 8 * 4 * 16 and 9 * 16 * 4 * 16:
  # 48384 multiply-adds, times 8 bits of pixels or activations, times 2 and 4 bits of weights. The
  # second path merges 3 * 256 + 2 * 128 + 2 * 64 = 1152 numbers, times 8 * 8 bits.
  assert read.manifest.multiply_accumulates == 48_384
  costs = [tuple(each.model_dump().values()) for each in read.manifest.bitops or ()]
  assert costs == [(774_144, 0), (1_548_288, 73_728)]
  [two, four] = [line.split() for line in done.stdout.splitlines() if line.startswith('│')]
  assert [two[-6], two[-4], four[-6], four[-4]] == ['0.000774', '0', '0.00155', '7.37e-05'], (
    done.stdout
  )
  assert 'ring_2.safetensors: here' in done.stdout
  assert 'ring_4.safetensors: not here' in done.stdout
  # What is there can be run.
  np.save(tmp_path / 'images.npy', test_set.images[:9])
  done = runs.call('predict', f'--artifact={folder}', '--precision=2', tmp_path / 'images.npy')
  assert done.returncode == 0, done.stderr
  labels = [row['label'] for row in csv.DictReader(done.stdout.splitlines())]
  assert labels == [str(label) for label in logits[0][0].argmax(-1)]

  status, err = runs.refused('export', *flags)
  assert status == 2
  assert 'give another folder' in err
  (folder / 'manifest.json').write_text('{}')
  status, err = runs.refused('inspect', folder)
  assert status == 2
  assert err.startswith('error: ')
  assert len(err.splitlines()) == 1


def test_an_operating_point_of_another_network_is_refused(
  uninterrupted: pathlib.Path, tmp_path: pathlib.Path
):
  weights = ((1.0,), (1.0, 1.0))
  point = operating_point.from_key((2, 8), 'normalised', 0.5, 'mean', weights, (1.0, 1.0))
  (tmp_path / 'point.json').write_text(point.to_json())
  status, err = runs.refused(
    'export', f'--workdir={uninterrupted}', f'--output={tmp_path / "graphs"}', '--format=onnx',
    f'--operating-point={tmp_path / "point.json"}',
  )  # fmt: skip
  assert status == 2
  assert f'is for bits=(2, 8), the network in {uninterrupted} has (2, 4)' in err
  assert not (tmp_path / 'graphs').exists()


@pytest.mark.parametrize('form', ['onnx', 'stablehlo'])
def test_a_run_is_exported_as_graphs(form: str, resnet_run: pathlib.Path, tmp_path: pathlib.Path):
  folder = tmp_path / 'graphs'
  done = runs.call('export', f'--workdir={resnet_run}', f'--output={folder}', f'--format={form}')
  assert done.returncode == 0, done.stderr
  manifest = json.loads((folder / 'manifest.json').read_text())
  assert manifest['class_names'] == list('0123456789')
  assert manifest['source']['dataset'] == 'digits'
  files = {entry['file'] for kind in ('paths', 'precisions') for entry in manifest[kind]}
  assert files == {f'{kind}_{b}.{form}' for kind in ('path', 'precision') for b in (2, 4)}
  assert files <= {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
  ('given', 'formats'),
  [
    ('--runtime=there', ('onion', 'onnx', 'stablehlo')),
    ('--test-images=5', ('onion', 'onnx', 'stablehlo')),
    ('--calibration-images=8', ('stablehlo',)),
  ],
)
def test_flags_of_other_formats_are_refused(
  tmp_path: pathlib.Path, given: str, formats: tuple[str, ...]
):
  for kind in formats:
    flags = (f'--workdir={tmp_path}', f'--output={tmp_path / "to"}', f'--format={kind}', given)
    status, err = runs.refused('export', *flags)
    assert status == 2
    assert err.startswith(f'error: {given.partition("=")[0]} is of no use with --format={kind}: ')
    assert len(err.splitlines()) == 1


def test_a_run_is_exported_as_a_page(
  resnet_run: pathlib.Path, tmp_path: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
):
  flags = (f'--workdir={resnet_run}', f'--output={tmp_path / "page"}', '--format=web')
  status, err = runs.refused('export', *flags, f'--runtime={tmp_path}')
  assert status == 2
  assert err.startswith(f'error: {tmp_path}')
  assert len(err.splitlines()) == 1
  assert not (tmp_path / 'page').exists()
  runtime = npm.runtime_folder(tmp_path_factory)
  done = runs.call('export', *flags, f'--runtime={runtime}', '--test-images=5')
  assert done.returncode == 0, done.stderr
  content = json.loads((tmp_path / 'page' / 'network.json').read_text())
  assert (content['bits'], content['image_shape']) == ([2, 4], [8, 8, 1])
  assert content['title'] == 'resnet8 on digits'
  costs = [point['reported']['relative_cost'] for point in content['points']]
  assert len(costs) > 2
  assert costs[0] < costs[-1]
  held_out = from_run.held_out(from_run.open_network(resnet_run))
  for index, entry in enumerate(content['images']):
    image = np.asarray(Image.open(tmp_path / 'page' / entry['file']))
    np.testing.assert_array_equal(image, held_out.images[index][..., 0])
    assert entry['label'] == held_out.reported.labels[index]
  assert len(content['images']) == 5


def test_summed_logits_and_companions_through_all_commands(tmp_path: pathlib.Path):
  run = tmp_path / 'run'
  flags = ('--config.quantization.sum_logits', '--config.objective.companion_bits=8')
  status, _, err = runs.train(run, *flags)
  assert status == 0, err
  done = runs.call('calibrate', f'--workdir={run}', '--average-bits=3')
  assert done.returncode == 0, done.stderr

  images = in_memory.load('digits', 'test').images[:9]
  source = trained_network.load(run)
  logits = np.asarray(source.network.apply(source.variables, jnp.asarray(images)))
  # A program rounds otherwise than its operations one by one: an activation on a tie may get the
  # code beside it. Each form is compared with the network as it is run there.
  in_one = np.asarray(jax.jit(source.network.apply)(source.variables, jnp.asarray(images)))
  for form, read, expected in (
    ('onion', _logits_of_artifact, logits),
    ('stablehlo', _logits_of_programs, in_one),
  ):
    folder = tmp_path / form
    done = runs.call('export', f'--workdir={run}', f'--output={folder}', f'--format={form}')
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(read(folder, images), expected, rtol=1e-5, atol=1e-5)
  assert source.variables['params']['path_4']['logit_scale'] != 0

  np.save(tmp_path / 'x.npy', images)
  done = runs.call('predict', f'--workdir={run}', f'--images={tmp_path / "x.npy"}')
  assert done.returncode == 0, done.stderr
  point = operating_point.read(run)
  found = [int(row['label']) for row in csv.DictReader(io.StringIO(done.stdout))]
  assert found == point.predict(logits).labels.tolist()
  for command in ('evaluate', 'report'):
    done = runs.call(command, f'--workdir={run}')
    assert done.returncode == 0, done.stderr


def _logits_of_artifact(folder: pathlib.Path, images: np.ndarray) -> np.ndarray:
  read = rings.load(folder)
  assert not any(b'companion' in path.read_bytes() for path in folder.iterdir())
  network = in_jax.network_of(read, TinyNet)
  return np.asarray(network.apply(read.variables, jnp.asarray(images)))


def _logits_of_programs(folder: pathlib.Path, images: np.ndarray) -> np.ndarray:
  return np.stack([each.call(images) for each in stablehlo.read(folder).precisions])
