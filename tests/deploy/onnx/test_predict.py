"""The folder of an export, and the `predict.py` in it."""

import io
import json
import os
import pathlib
import subprocess
import sys
from unittest import mock
import venv

import numpy as np
import pytest

from dpoq_jax.deploy.onnx import export, predict
from dpoq_jax.inference import operating_point
from tests.conftest import REPOSITORY
from tests.deploy.onnx.conftest import SHAPES, chain, images, made


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Returns the export of `made()` with an operating point."""
  network, variables, source, pixels = made()
  point = operating_point.from_key(
    network.bits,
    'normalised',
    0.25,
    'weighted',
    ((1.0,), (0.3, 0.7), (0.1, 0.2, 0.7)),
    (1.5, 1.0, 0.8),
  )
  # Half of those that reach a path leave there.
  confidence = [point.probabilities(k, z).max(-1) for k, z in enumerate(chain(source, pixels))]
  thresholds = [*(float(np.median(each)) for each in confidence[:2]), 0.0]
  by_precision = dict(zip(network.bits, thresholds, strict=True))
  point = point.model_copy(update={'thresholds': by_precision})
  path = tmp_path_factory.mktemp('onnx') / 'export'
  export.write(
    path,
    network,
    variables,
    images(64, SHAPES['resnet']),
    class_names=tuple('abcdefghij'),
    operating_points=(json.loads(point.to_json()),),
  )
  return path


def test_the_folder_decides_as_the_operating_point_does(folder: pathlib.Path):
  example = made()
  point = operating_point.from_json(
    json.dumps(json.loads((folder / 'manifest.json').read_text())['operating_points'][0])
  )
  network = predict.Network(folder)
  logits = chain(example.source, example.images)
  for cap in (None, 4):
    wanted = (point.capped(cap) if cap else point).predict(logits)
    # With another batch the float classifier may end on another last bit.
    found = network.predict(example.images, max_bits=cap, batch_size=32)
    np.testing.assert_array_equal(found.labels, wanted.labels)
    np.testing.assert_array_equal(found.precisions, np.array(point.bits)[wanted.exits])
    np.testing.assert_allclose(found.probabilities, wanted.probabilities, atol=1e-5)
    assert len(set(found.precisions)) == (2 if cap else 3)
  alone = network.predict_at(example.images, 8)
  np.testing.assert_array_equal(alone.labels, logits[-1].argmax(-1))


def test_summed_logits_go_from_path_to_path(tmp_path: pathlib.Path):
  network, variables, source, pixels = made(bits=(2, 4), sum_logits=True)
  folder = tmp_path / 'export'
  export.write(
    folder, network, variables, images(64, SHAPES['resnet']), class_names=tuple('abcdefghij')
  )
  logits = chain(source, pixels)
  point = operating_point.from_key(
    network.bits, 'confidence_first', 0.5, 'mean', ((1.0,), (1.0, 1.0)), (1.0, 1.0)
  )
  median = float(np.median(point.probabilities(0, logits[0]).max(-1)))
  point = point.model_copy(update={'thresholds': {2: median, 4: 0.0}})
  wanted = point.predict(logits)
  found = predict.Network(folder).predict(pixels, point=json.loads(point.to_json()), batch_size=32)
  np.testing.assert_array_equal(found.labels, wanted.labels)
  np.testing.assert_array_equal(found.precisions, np.array(point.bits)[wanted.exits])
  np.testing.assert_allclose(found.probabilities, wanted.probabilities, atol=1e-5)


def test_bad_input_and_altered_files_are_refused(folder: pathlib.Path, tmp_path: pathlib.Path):
  network = predict.Network(folder)
  with pytest.raises(ValueError, match='float32'):
    network.predict(np.zeros((1, 16, 16, 3), np.float32))
  with pytest.raises(ValueError, match='precision 3'):
    network.predict_at(made().images, 3)
  for file in folder.iterdir():
    (tmp_path / file.name).write_bytes(file.read_bytes())
  (tmp_path / 'path_2.onnx').write_bytes(b'')
  with pytest.raises(ValueError, match=r'path_2\.onnx was altered'):
    predict.Network(tmp_path).predict(made().images)
  # A device need not hold graphs that it does not run.
  (tmp_path / 'path_2.onnx').unlink()
  assert len(predict.Network(tmp_path).predict_at(made().images[:2], 2).labels) == 2
  with pytest.raises(FileExistsError):
    export.write(folder, made().network, made().variables, made().images, class_names=())
  with pytest.raises(ValueError, match='freeze them first'):
    export.write(tmp_path / 'new', made().network, {}, made().images, class_names=())


def test_the_folder_runs_with_numpy_and_onnxruntime_alone(
  folder: pathlib.Path, tmp_path: pathlib.Path
):
  venv.create(tmp_path / 'venv', with_pip=True)
  python = tmp_path / 'venv' / 'bin' / 'python'
  constraints = {**os.environ, 'PIP_CONSTRAINT': str(REPOSITORY / 'launch' / 'constraints.txt')}
  install = [python, '-m', 'pip', 'install', '--quiet', 'numpy', 'onnxruntime']
  subprocess.run(install, check=True, env=constraints)
  np.save(tmp_path / 'images.npy', made().images)
  environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
  arguments = [tmp_path / 'images.npy', f'--output={tmp_path / "found.npz"}']
  done = subprocess.run(
    [python, folder / 'predict.py', *arguments],
    cwd=tmp_path, env=environment, text=True, capture_output=True, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert len(done.stdout.splitlines()) == len(made().images)
  with np.load(tmp_path / 'found.npz') as found:
    wanted = predict.Network(folder).predict(made().images)
    np.testing.assert_array_equal(found['labels'], wanted.labels)


@pytest.mark.parametrize(
  ('change', 'flags', 'expected'),
  [
    (None, ['--batch-size=-1'], 'a batch of -1 images'),
    (None, ['--batch-size=0', '--precision=2'], 'a batch of 0 images'),
    (None, ['--output=nowhere/found.npz'], 'nowhere/found.npz'),
    (None, ['empty.npy'], 'empty.npy is empty'),
    (None, ['several.npz'], 'several.npz holds several arrays'),
    (lambda m: m.pop('bits'), [], "manifest.json is not the manifest of these graphs ('bits')"),
    (lambda m: m['paths'].pop(), [], 'paths are not those of bits=(2, 4, 8)'),
    (lambda m: m['operating_points'][0]['weights'].pop('4'), [], 'has no weights for 4 bits'),
  ],
)
def test_predict_says_what_is_wrong_in_one_line(
  change, flags, expected, folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  np.save('images.npy', made().images[:3])
  np.savez('several.npz', made().images[:3])
  pathlib.Path('empty.npy').touch()
  manifest = json.loads((folder / 'manifest.json').read_text())
  if change:
    change(manifest)
  for file in folder.iterdir():
    (tmp_path / file.name).write_bytes(file.read_bytes())
  pathlib.Path('manifest.json').write_text(json.dumps(manifest))
  monkeypatch.setattr(predict, '__file__', str(tmp_path / 'predict.py'))
  given = [] if any('.np' in each and '=' not in each for each in flags) else ['images.npy']
  monkeypatch.setattr(sys, 'argv', ['predict.py', *given, *flags])
  # The stream that pytest puts in its place is no file.
  with mock.patch.object(sys, 'stdout', io.TextIOWrapper(io.BytesIO())):
    assert predict.main() == 2
  err = capsys.readouterr().err
  assert err.startswith('error: ')
  assert expected in err
  assert err.count('\n') == 1


def test_predict_needs_numpy_and_onnxruntime_alone():
  program = 'import sys, predict; print(*sys.modules)'
  done = subprocess.run(
    [sys.executable, '-c', program],
    cwd=REPOSITORY / 'dpoq_jax' / 'deploy' / 'onnx', text=True, capture_output=True, check=True,
  )  # fmt: skip
  assert not {'jax', 'flax', 'onnx', 'dpoq_jax'} & set(done.stdout.split())
