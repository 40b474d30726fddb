"""The folder of an export, and the `predict.py` in it."""

from collections.abc import Callable
import csv
import hashlib
import importlib
import json
import os
import pathlib
import subprocess
import sys
from typing import Any
from unittest import mock
import venv

import numpy as np
import pytest

from dpoq_jax.data import to_predict
from dpoq_jax.deploy.onnx import export, graph_network, predict
from dpoq_jax.inference import operating_point
from tests.conftest import REPOSITORY
from tests.deploy.onnx.conftest import SHAPES, chain, made, photographs, refused
from tests.deploy.rewriting import rewritten


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


def opened(
  folder: pathlib.Path, network: predict.Network, run: Callable[[], Any]
) -> list[tuple[str, int]]:
  """Returns which files are opened by a call that predicts, and with how many threads."""
  found: list[tuple[str, int]] = []
  names = {
    (folder / each['file']).read_bytes(): each['file']
    for each in (*network.manifest['paths'], *network.manifest['precisions'],
                 network.manifest['cascade'])
  }  # fmt: skip
  real = graph_network.session

  def session(model: bytes, threads: int) -> Any:
    found.append((names[model], threads))
    return real(model, threads)

  with mock.patch.object(graph_network, 'session', session):
    run()
  return found


def test_single_images_take_one_graph_and_one_thread(folder: pathlib.Path):
  pixels = made().images
  whole = [('cascade.onnx', 1)]
  paths = [f'path_{bits}.onnx' for bits in (2, 4, 8)]
  cases: list[tuple[int, dict[str, Any], list[tuple[str, int]]]] = [
    (0, {'batch_size': 1}, whole),
    (0, {'batch_size': 1, 'single_graph': False}, [(file, 1) for file in paths]),
    (2, {'batch_size': 1}, [('cascade.onnx', 2)]),
    (0, {'batch_size': 64}, [(file, 0) for file in paths]),
    (2, {'batch_size': 64}, [(file, 2) for file in paths]),
  ]
  for threads, given, wanted in cases:
    network = predict.Network(folder, threads)
    assert opened(folder, network, lambda: network.predict(pixels, **given)) == wanted  # noqa: B023
  network = predict.Network(folder)
  assert opened(folder, network, lambda: network.predict(pixels[:1])) == whole
  network = predict.Network(folder)
  assert opened(folder, network, lambda: network.predict_at(pixels[:1], 4)) == [
    ('precision_4.onnx', 1)
  ]
  network = predict.Network(folder)
  assert opened(folder, network, lambda: network.predict_at(pixels[:9], 4)) == [
    ('precision_4.onnx', 0)
  ]
  # 65 images are no single image, though the last batch of the lowest path is one.
  network = predict.Network(folder)
  assert all(
    not threads for _, threads in opened(folder, network, lambda: network.predict(pixels[:65]))
  )


def test_one_graph_predicts_as_the_paths_do(folder: pathlib.Path):
  network, pixels = predict.Network(folder), made().images
  (point,) = network.manifest['operating_points']
  other = {**point, 'thresholds': {'2': 0.0, '4': 0.0, '8': 0.0}}
  choices: list[dict[str, Any]] = [{}, {'max_bits': 4}, {'point': other}]
  for given in choices:
    found = network.predict(pixels, batch_size=1, **given)
    wanted = network.predict(pixels, batch_size=1, single_graph=False, **given)
    np.testing.assert_array_equal(found.labels, wanted.labels)
    np.testing.assert_array_equal(found.precisions, wanted.precisions)
    np.testing.assert_allclose(found.probabilities, wanted.probabilities, rtol=0, atol=1e-14)
    assert found.probabilities.shape == wanted.probabilities.shape


def test_a_device_without_the_whole_cascade_runs_its_paths(copy: pathlib.Path, call):
  np.save('images.npy', made().images)
  _, wanted, _ = call('images.npy', '--batch-size=1', '--max-bits=4')
  for file in ('cascade.onnx', 'path_8.onnx'):
    (copy / file).unlink()
  assert call('images.npy', '--batch-size=1', '--max-bits=4') == (0, wanted, '')
  # So does a folder that was written before there was such a graph.
  rewritten(copy, lambda m: m.pop('cascade'))
  assert call('images.npy', '--batch-size=1', '--max-bits=4') == (0, wanted, '')


@pytest.mark.parametrize(
  ('change', 'expected'),
  [
    (lambda m: m.update(cascade=[]), 'cascade is []: a graph is allowed'),
    (lambda m: m['cascade'].update(file='../cascade.onnx'), "cascade: file is '../cascade.onnx'"),
    (lambda m: m['cascade'].update(sha256='0' * 64), 'cascade.onnx was altered: its digest'),
    (lambda m: m['cascade'].update(bytes=7), 'cascade.onnx was altered: it does not have 7 bytes'),
    (lambda m: m['class_names'].pop(), 'cascade.onnx does not give probabilities of 9 classes'),
  ],
)
def test_the_graph_of_the_whole_cascade_is_checked_as_others_are(
  change: Any, expected: str, copy: pathlib.Path, call
):
  rewritten(copy, change)
  refused(call('images.npy', '--batch-size=1'), expected)


def test_the_graph_of_a_path_in_place_of_the_cascade_is_refused(copy: pathlib.Path, call):
  content = (copy / 'path_2.onnx').read_bytes()
  (copy / 'cascade.onnx').write_bytes(content)
  forged = {'bytes': len(content), 'sha256': hashlib.sha256(content).hexdigest()}
  rewritten(copy, lambda m: m['cascade'].update(forged))
  refused(call('images.npy', '--batch-size=1'), 'cascade.onnx does not give probabilities of 10')


def test_summed_logits_go_from_path_to_path(tmp_path: pathlib.Path):
  network, _, source, pixels = made(bits=(2, 4), sum_logits=True)
  folder = tmp_path / 'export'
  export.write(folder, source, class_names=tuple('abcdefghij'))
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


def test_predictions_are_written_as_csv_and_shown(copy: pathlib.Path, call):
  names = ['=1+1', '@a', '+a', '-a', '\ta', 'a"b,c', 'a\r\nb', '\x1b[2J', '\ud800', 'plain']
  rewritten(copy, lambda m: m.update(class_names=names))
  np.save('images.npy', made().images)
  status, out, err = call('images.npy', '--output=res.csv')
  assert (status, err) == (0, '')
  with (copy / 'res.csv').open(newline='', encoding='utf-8') as file:
    header, *rows = csv.reader(file)
  assert header == ['input', 'label', 'class_name', 'probability', 'precision']
  wanted = predict.Network(copy).predict(made().images)
  for number, (row, line) in enumerate(zip(rows, out[:-1].split('\n'), strict=True)):
    label, probability = wanted.labels[number], wanted.probabilities[number].max()
    shown = names[label] if label != 8 else r'\ud800'
    assert row == [
      str(number), str(label), f"'{shown}" if label < 5 else shown, str(probability),
      str(wanted.precisions[number]),
    ]  # fmt: skip
    assert line.count('\t') == 3
    assert line.replace('\t', '').isprintable()
  assert len(set(wanted.labels)) > 3
  # A file that was there stays as it was where the new one cannot be written whole.
  with mock.patch.object(csv, 'writer', side_effect=OSError('no space left')):
    refused(call('images.npy', '--output=res.csv'), 'no space left')
  assert len((copy / 'res.csv').read_bytes().splitlines()) > len(rows)
  assert not list(copy.glob('.*.partial'))


def test_inspect_shows_the_graphs(copy: pathlib.Path, capsys: pytest.CaptureFixture[str]):
  inspect = importlib.import_module('dpoq_jax.inspect.__main__')
  sizes = {path.name: path.stat().st_size for path in copy.glob('*_*.onnx')}
  assert len(sizes) == 6
  (copy / 'path_8.onnx').unlink()
  (copy / 'cascade.onnx').unlink()
  source = {'dataset': '[bold]x\x1b[2J', 'step': 7}
  rewritten(copy, lambda manifest: manifest.update(source=source))
  inspect.main(None, str(copy))
  shown = capsys.readouterr().out
  assert r'ONNX graphs: [bold]x\x1b[2J, step 7' in shown
  assert 'images 16 x 16 x 3, 10 classes, operating points: 1' in ' '.join(shown.split())
  for name, size in sizes.items():
    assert f'{size:,}' in shown
    assert f'{name}: {"not here" if name == "path_8.onnx" else "here"}\n' in shown
  assert 'cascade.onnx: not here\n' in shown
  (copy / 'manifest.json').write_text('{}')
  with pytest.raises(SystemExit) as ended:
    inspect.main(None, str(copy))
  assert ended.value.code == 2
  assert capsys.readouterr().err.endswith('manifest.json is not the manifest of ONNX graphs.\n')


def test_nothing_tells_where_it_was_exported(folder: pathlib.Path):
  for file in (path for path in folder.rglob('*') if path.is_file()):
    content = file.read_bytes()
    for path in (str(REPOSITORY), sys.prefix, str(pathlib.Path.home())):
      assert path.encode() not in content, (file.name, path)


def test_predict_needs_numpy_and_onnxruntime_alone(folder: pathlib.Path):
  program = 'import sys, predict; print(*sys.modules)'
  done = subprocess.run(
    [sys.executable, '-c', program],
    cwd=folder, text=True, capture_output=True, check=True,
  )  # fmt: skip
  assert not {'jax', 'flax', 'onnx', 'dpoq_jax'} & set(done.stdout.split())


@pytest.mark.parametrize('resize', [None, 20])
def test_files_are_read_as_dpoq_predict_reads_them(resize: int | None, copy: pathlib.Path, call):
  photographs(copy / 'photos')
  rewritten(copy, lambda manifest: manifest.update(resize=resize))
  found = to_predict.find(copy / 'photos', SHAPES['resnet'], resize)
  read = [each for batch in found.batches(8) for each in batch if each.image is not None]
  assert [each.name for each in read] == ['a.png', 'b.jpg', 'inner/c.png', 'inner/d.png']
  pixels = np.stack([each.image for each in read if each.image is not None])
  wanted = predict.Network(copy).predict_at(pixels, 8)
  status, out, err = call('photos', '--precision=8', '--top=2', '--output=found.csv')
  assert status == 0
  assert err.startswith('not read: broken.png: no image that is read')
  assert err.count('\n') == 1
  rows = [line.split('\t') for line in out.splitlines()]
  assert [row[0] for row in rows] == [each.name for each in read]
  letters = 'abcdefghij'
  ranked = np.argsort(-wanted.probabilities, axis=-1, kind='stable')
  assert [(row[1], row[4]) for row in rows] == [(letters[a], letters[b]) for a, b, *_ in ranked]
  with (copy / 'found.csv').open(newline='') as file:
    table = list(csv.DictReader(file))
  assert [row['class_name_2'] for row in table] == [row[4] for row in rows]
  assert [f'{float(row["probability"]):.4f}' for row in table] == [row[2] for row in rows]
  # Several paths, each a file or a folder, are named as they are given.
  status, out, _ = call('photos/b.jpg', 'photos/inner', '--precision=8')
  assert [line.split('\t')[0] for line in out.splitlines()] == [
    'photos/b.jpg', 'photos/inner/c.png', 'photos/inner/d.png'
  ]  # fmt: skip
  assert [line.split('\t')[1:3] for line in out.splitlines()] == [row[1:3] for row in rows[1:]]


@pytest.mark.parametrize('module', ['numpy', 'onnxruntime'])
def test_what_is_not_installed_is_said_in_one_line(module: str, copy: pathlib.Path):
  program = (
    f'import runpy, sys; sys.modules[{module!r}] = None; sys.path.insert(0, ".");'
    'runpy.run_path("predict.py", run_name="__main__")'
  )
  done = subprocess.run(
    [sys.executable, '-c', program], cwd=copy, text=True, capture_output=True, check=False
  )
  assert (done.returncode, done.stdout) == (2, '')
  assert done.stderr == f'error: {module} is not installed: pip install onnxruntime numpy.\n'
