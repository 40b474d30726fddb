"""ONNX folders that are damaged, or that lie: one line and status 2, or numbers that make sense."""

import functools
import io
import json
import pathlib
import sys
from unittest import mock

import numpy as np
import onnxruntime
import pytest

from dpoq_jax.deploy.onnx import export, graph_network, predict, source
from dpoq_jax.inference import operating_point
from tests.conftest import once
from tests.deploy.conftest import IMAGES, frozen
from tests.fuzz import mutations
from tests.fuzz.test_artifact import with_digest

FLAGS = (
  [],
  ['--max-bits=2'],
  ['--precision=4'],
  # By the graph of the whole cascade.
  ['--batch-size=1'],
  ['--batch-size=1', '--max-bits=2'],
)


@pytest.fixture(scope='module')
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
  """Returns the files of an export, and of images."""

  def make(path: pathlib.Path) -> None:
    example = frozen((2, 4))
    weights = ((1.0,), (0.3, 0.7))
    point = operating_point.from_key((2, 4), 'normalised', 0.5, 'weighted', weights, (1.5, 0.8))
    point = point.model_copy(update={'thresholds': {2: 0.3, 4: 0.0}})
    export.write(
      path, source.prepare(example.network, example.variables, IMAGES),
      class_names=('a', 'b', 'c', 'd', 'e'),
      operating_points=(json.loads(point.to_json()),), source={'dataset': 'digits', 'step': 7},
    )  # fmt: skip
    np.save(path / 'images.npy', IMAGES)

  folder = once(tmp_path_factory, 'fuzzed_onnx', make)
  return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def damaged(rng: np.random.Generator, files: dict[str, bytes]) -> dict[str, bytes]:
  """Returns the files with the manifest, a graph or the images damaged."""
  manifest, name = files['manifest.json'], str(rng.choice([f for f in files if 'onnx' in f]))
  match rng.integers(6):
    case 0:
      return {**files, 'manifest.json': mutations.mutated_bytes(rng, manifest)}
    case 1:
      text = mutations.mutated_json(rng, manifest.decode())
      return {**files, 'manifest.json': text.encode()}
    case 2:
      return {**files, name: mutations.mutated_bytes(rng, files[name])}
    case 3:
      return {**files, 'images.npy': mutations.mutated_bytes(rng, files['images.npy'])}
    case _:
      text = with_digest(mutations.mutated_json(rng, manifest.decode()))
      return {**files, 'manifest.json': text.encode()}


@mutations.counts
def test_onnx_folders(
  count: int, files: dict[str, bytes], tmp_path: pathlib.Path, monkeypatch, capsys
):
  opened: set[bytes] = set()

  # Opened anew for every input, the same graphs would take most of the time.
  @functools.cache
  def session(model: bytes, threads: int) -> onnxruntime.InferenceSession:
    opened.add(model)
    return original(model, threads)

  original = graph_network.session
  monkeypatch.setattr(graph_network, 'session', session)
  monkeypatch.setattr(predict, '__file__', str(tmp_path / 'predict.py'))
  rng, predicted = np.random.default_rng(7), 0
  for number in range(count):
    changed = damaged(rng, files)
    for name, content in changed.items():
      if (tmp_path / name).is_file() and (tmp_path / name).read_bytes() == content:
        continue
      (tmp_path / name).write_bytes(content)
    output = tmp_path / f'found{rng.choice([".csv", ".npz"])}'
    flags = FLAGS[rng.integers(len(FLAGS))]
    arguments = ['predict.py', str(tmp_path / 'images.npy'), f'--output={output}', *flags]
    monkeypatch.setattr(sys, 'argv', arguments)
    stdout = io.TextIOWrapper(io.BytesIO(), 'utf-8')
    with mutations.no_hang(), mock.patch.object(sys, 'stdout', stdout):
      status = predict.main()
    err = capsys.readouterr().err
    if status:
      assert status == 2, number
      assert len(err.splitlines()) == 1, number
      assert err[:-1].isprintable(), number
      assert len(err) < 1500, number
      assert not output.exists(), number
      continue
    predicted += 1
    assert not err, number
    stdout.seek(0)
    lines = stdout.read()[:-1].split('\n')
    probabilities = [float(line.split('\t')[2]) for line in lines]
    assert all(0 <= each <= 1 for each in probabilities), number
    assert all(line.replace('\t', '').isprintable() for line in lines), number
    assert output.stat().st_size
    output.unlink()
  assert 0 < predicted < count
  # No graph that is not one of those written came to the runtime.
  assert opened <= {content for name, content in files.items() if name.endswith('.onnx')}
  assert files['cascade.onnx'] in opened
