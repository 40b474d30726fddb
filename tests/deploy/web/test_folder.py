"""The folder of a page, and where its runtime comes from."""

import gzip
import hashlib
import json
import pathlib
import stat
import tarfile

import numpy as np
from PIL import Image
import pytest

from dpoq_jax.deploy.onnx import export, source
from dpoq_jax.deploy.web import folder, runtime
from dpoq_jax.inference import operating_point
from tests.deploy.conftest import IMAGES, frozen

RUNTIME = runtime.Runtime(b'script\n//# sourceMappingURL=script.map\n', b'program')


def point(threshold: float, bits: tuple[int, ...] = (2, 4)) -> dict[str, object]:
  weights = tuple((1.0,) * count for count in range(1, len(bits) + 1))
  made = operating_point.from_key(
    bits, 'confidence_first', threshold, 'mean', weights, (1.0,) * len(bits)
  )
  return json.loads(made.to_json())


@pytest.fixture(scope='module')
def exported(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  path = tmp_path_factory.mktemp('exported') / 'graphs'
  example = frozen((2, 4))
  prepared = source.prepare(example.network, example.variables, IMAGES)
  export.write(path, prepared, class_names=tuple('abcde'), resize=10)
  return path


def test_it_holds_all_that_the_page_loads(exported: pathlib.Path, tmp_path: pathlib.Path):
  examples = folder.Examples(list(IMAGES[:3]), np.array([4, 0, 1]), 'Three of them.')
  points = [point(0.2), point(0.6)]
  written = folder.write(
    tmp_path, exported, RUNTIME, title='A page', points=points, current=1, examples=examples
  )
  assert json.loads((tmp_path / folder.FILE).read_text()) == written
  known = {name: written[name] for name in ('bits', 'image_shape', 'resize', 'current', 'source')}
  assert known == {
    'bits': [2, 4], 'image_shape': [8, 8, 3], 'resize': 10, 'current': 1, 'source': 'Three of them.'
  }  # fmt: skip
  assert [each['thresholds'] for each in written['points']] == [p['thresholds'] for p in points]
  for entry in (written['runtime'], *written['rings']):
    content = (tmp_path / entry['file']).read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (entry['bytes'], entry['sha256'])
  assert gzip.decompress((tmp_path / 'runtime/onnxruntime.gzip').read_bytes()) == b'program'
  for ring, name in zip(written['rings'], ('path_2', 'path_4'), strict=True):
    graph = (exported / f'{name}.onnx').read_bytes()
    assert gzip.decompress((tmp_path / ring['file']).read_bytes()) == graph
  for entry, image in zip(written['images'], IMAGES, strict=False):
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / entry['file'])), image)
  assert [entry['label'] for entry in written['images']] == [4, 0, 1]
  assert (tmp_path / 'runtime/onnxruntime.js').read_bytes() == b'script\n'
  again = tmp_path / 'again'
  folder.write(
    again, exported, RUNTIME, title='A page', points=points, current=1, examples=examples
  )
  for file in again.rglob('*.*'):
    assert file.read_bytes() == (tmp_path / file.relative_to(again)).read_bytes()


def test_it_names_no_address_and_holds_no_inline_script(
  exported: pathlib.Path, tmp_path: pathlib.Path
):
  folder.write(tmp_path, exported, RUNTIME, title='A page', points=[point(0.5)], current=0)
  page = (tmp_path / 'index.html').read_text()
  policy = page.partition('Content-Security-Policy" content="')[2].partition('"')[0]
  assert "default-src 'none'" in policy
  assert 'unsafe-inline' not in policy
  assert 'unsafe-eval' not in policy.replace('wasm-unsafe-eval', '')
  for file in tmp_path.iterdir():
    if file.suffix in ('.html', '.js', '.css'):
      assert '://' not in file.read_text(), file
  assert not (tmp_path / 'images').exists()


def test_what_makes_no_sense_is_refused(exported: pathlib.Path, tmp_path: pathlib.Path):
  with pytest.raises(ValueError, match='is for bits='):
    folder.write(
      tmp_path / 'a', exported, RUNTIME, title='', points=[point(0.5, (2, 8))], current=0
    )
  with pytest.raises(ValueError, match='current=1: there are 1 operating points'):
    folder.write(tmp_path / 'b', exported, RUNTIME, title='', points=[point(0.5)], current=1)
  with pytest.raises(FileNotFoundError, match='no such folder'):
    folder.write(tmp_path / 'c', tmp_path / 'none', RUNTIME, title='', points=[], current=0)


def test_another_runtime_is_refused(tmp_path: pathlib.Path):
  with pytest.raises(FileNotFoundError):
    runtime.read(tmp_path)
  (tmp_path / 'dist').mkdir()
  for name in runtime.FILES:
    (tmp_path / 'dist' / name).write_bytes(b'another version')
  with pytest.raises(ValueError, match=f'is not that of onnxruntime-web {runtime.VERSION}'):
    runtime.read(tmp_path)


def test_the_runtime_is_read_from_a_folder(runtime_folder: pathlib.Path):
  assert runtime.read(runtime_folder) == runtime.read(runtime_folder / 'dist')
  # The version in the script is the one that the page names.
  assert f'v{runtime.VERSION}'.encode() in runtime.read(runtime_folder).script


def fake_npm(path: pathlib.Path, body: str) -> None:
  path.mkdir(exist_ok=True)
  (path / 'npm').write_text(f'#!/bin/sh\n{body}\n')
  (path / 'npm').chmod(stat.S_IRWXU)


def test_without_npm_there_is_another_way(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setenv('PATH', str(tmp_path / 'bin'))
  with pytest.raises(
    ValueError, match=r'npm, which brings onnxruntime-web, is not on PATH: inst.*--r'
  ):
    runtime.from_npm()
  fake_npm(tmp_path / 'bin', 'echo no network >&2; exit 1')
  with pytest.raises(ValueError, match=r'could not bring .*\(no network\): give --runtime=DIR'):
    runtime.from_npm()
  (tmp_path / 'package').mkdir()
  (tmp_path / 'package' / 'README').write_text('another package')
  archive = tmp_path / 'package.tgz'
  with tarfile.open(archive, 'w:gz') as made:
    made.add(tmp_path / 'package', 'package')
  fake_npm(tmp_path / 'bin', f'/bin/cp {archive} .')
  with pytest.raises(ValueError, match=r'has no package/dist/ort.wasm'):
    runtime.from_npm()
