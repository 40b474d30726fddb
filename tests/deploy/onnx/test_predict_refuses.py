"""What the `predict.py` of an export refuses: flags, manifests, graphs and images."""

import hashlib
import os
import pathlib
import shutil
import sys
import tracemalloc
from typing import Any
from unittest import mock

import numpy as np
import pytest

from dpoq_jax.deploy.onnx import export, graph_network, predict, source
from tests.deploy.onnx.conftest import made, photographs, refused
from tests.deploy.rewriting import rewritten


def test_bad_input_and_altered_files_are_refused(folder: pathlib.Path, tmp_path: pathlib.Path):
  network = predict.Network(folder)
  with pytest.raises(ValueError, match='float32'):
    network.predict(np.zeros((1, 16, 16, 3), np.float32))
  with pytest.raises(ValueError, match='precision 3'):
    network.predict_at(made().images, 3)
  shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
  (tmp_path / 'path_2.onnx').write_bytes(b'')
  with pytest.raises(ValueError, match=r'path_2\.onnx was altered'):
    predict.Network(tmp_path).predict(made().images)
  # A device need not hold graphs that it does not run.
  (tmp_path / 'path_2.onnx').unlink()
  assert len(predict.Network(tmp_path).predict_at(made().images[:2], 2).labels) == 2
  with pytest.raises(FileExistsError):
    export.write(folder, made().source, class_names=())
  with pytest.raises(ValueError, match='freeze them first'):
    source.prepare(made().network, {}, made().images)


@pytest.mark.parametrize(
  ('flags', 'expected'),
  [
    (['--batch-size=-1'], 'a batch of -1 images'),
    (['--batch-size=0', '--precision=2'], 'a batch of 0 images'),
    (['--output=nowhere/found.npz'], '--output=nowhere/found.npz: there is no folder nowhere'),
    (['--output=res.txt'], '--output=res.txt: give a file that ends in .csv or .npz'),
    (['--precision=3'], 'precision 3: this network has (2, 4, 8)'),
    (['--max-bits=16'], 'precision 16'),
  ],
)
def test_predict_says_what_is_wrong_with_its_flags(flags: list[str], expected: str, call):
  refused(call('images.npy', *flags), expected)


def first_point(**fields: Any) -> Any:
  """Returns a change of the first operating point: other entries for some precisions."""

  def change(manifest: Any) -> None:
    for field, entry in fields.items():
      manifest['operating_points'][0][field]['4'] = entry

  return change


@pytest.mark.parametrize(
  ('change', 'expected'),
  [
    (lambda m: m.pop('bits'), 'manifest.json: bits is None'),
    (lambda m: m['paths'].pop(), 'paths are not those of bits=[2, 4, 8]'),
    (lambda m: m['operating_points'][0]['weights'].pop('4'), 'has no weights for 4 bits'),
    (first_point(temperatures=0), 'temperatures of 4 bits is 0: a finite number above 0'),
    (first_point(temperatures=-1.5), 'temperatures of 4 bits is -1.5'),
    (first_point(temperatures=float('nan')), 'temperatures of 4 bits is nan'),
    (first_point(weights=[float('inf'), 1]), 'weights of 4 bits is [inf, 1]'),
    (first_point(weights=[1]), 'weights of 4 bits is [1]: 2 finite numbers from 0 up'),
    (first_point(thresholds='\x1b[2J' * 10**5), 'thresholds of 4 bits is'),
    (lambda m: m.update(class_names='abcdefghij'), "class_names is 'abcdefghij': a list of str"),
    (lambda m: m['class_names'].pop(), 'path_2.onnx does not give logits of 9 classes'),
    (lambda m: m['image_shape'].reverse(), 'images are uint8[3, 16, 16, 3]'),
    (lambda m: m.update(image_shape=[-16, 16, 3]), 'image_shape is [-16, 16, 3]'),
    (lambda m: m['paths'][0].update(file='/dev/zero'), "file is '/dev/zero'"),
    (lambda m: m['paths'][0].update(sha256='0' * 64), 'path_2.onnx was altered'),
  ],
)
def test_manifests_that_lie_are_refused(change, expected: str, copy: pathlib.Path, call):
  rewritten(copy, change)
  refused(call('images.npy'), expected)


def test_a_manifest_that_was_altered_is_refused(copy: pathlib.Path, call):
  text = (copy / 'manifest.json').read_text()
  (copy / 'manifest.json').write_text(text.replace('"a"', '"z"'))
  refused(call('images.npy'), 'manifest.json was altered')


@pytest.mark.parametrize('content', [b'', b'no graph', bytes(1000)])
def test_a_graph_is_checked_before_the_runtime_reads_it(
  content: bytes, copy: pathlib.Path, call, monkeypatch: pytest.MonkeyPatch
):
  (copy / 'path_2.onnx').write_bytes(content)
  with mock.patch.object(graph_network, 'session') as session:
    refused(call('images.npy'), 'path_2.onnx was altered')
  session.assert_not_called()
  # What the runtime says of a graph whose digest is right is one line, too.
  forged = {'bytes': len(content), 'sha256': hashlib.sha256(content).hexdigest()}
  rewritten(copy, lambda m: m['paths'][0].update(forged))
  refused(call('images.npy'), 'path_2.onnx: ONNX Runtime cannot run it')
  # The same where it is the graph of another path, whose inputs are not there.
  other = (copy / 'path_4.onnx').read_bytes()
  (copy / 'path_2.onnx').write_bytes(other)
  forged = {'bytes': len(other), 'sha256': hashlib.sha256(other).hexdigest()}
  rewritten(copy, lambda m: m['paths'][0].update(forged))
  refused(call('images.npy'), 'path_2.onnx: ONNX Runtime cannot run it')


def npy(header: str) -> bytes:
  """Returns a .npy file of 100 bytes of numbers with any header."""
  return b'\x93NUMPY\x01\x00' + len(header).to_bytes(2, 'little') + header.encode() + bytes(100)


HEADER = "{{'descr': {}, 'fortran_order': False, 'shape': {}, }}\n"


@pytest.mark.parametrize(
  'content',
  [
    b'', b'PK', b'PK\x03\x04' + b'garbage' * 9, b'\x93NUMPY', b'\x93NUMPY\x09\x09', b'text',
    npy(HEADER.format("'|u1'", (10**9, 16, 16, 3))),
    npy(HEADER.format("'|u1'", (2**62, 2**62, 2**62))),
    npy(HEADER.format("'|u1'", (-1, 16, 16, 3))),
    npy(HEADER.format("'|u1'", "('a',)")),
    npy(HEADER.format("'|O'", (3,))),
    npy(HEADER.format("'<f4'", (1, 5, 5, 1))),
    npy(HEADER.format("[('a', 'u1')]", (100,))),
    npy(HEADER.format("'nonsense'", (1,))),
    npy(HEADER.format("'|u1'", ())),
    npy('('), npy('{' * 500), npy('(' * 9_999), npy(' ' * 65_535), npy("{'descr': '|u1'}\n"),
    npy('\0'), npy('1' * 9_000),
    b'\x93NUMPY\x02\x00\xff\xff\xff\xff',
  ],
)  # fmt: skip
def test_what_is_no_array_of_images_is_refused(content: bytes, copy: pathlib.Path, call):
  (copy / 'other.npy').write_bytes(content)
  tracemalloc.start()
  refused(call('other.npy'), '')
  assert tracemalloc.get_traced_memory()[1] < 100e6
  tracemalloc.stop()


def test_images_are_one_regular_file(copy: pathlib.Path, call):
  np.savez('several.npz', made().images[:3])
  status, out, err = call('several.npz')
  assert (status, out) == (2, '')
  assert err.startswith('not read: several.npz: no image that is read')
  assert err.endswith('error: none of 1 images could be read.\n')
  refused(call('nothing.npy'), 'nothing.npy is not there')
  refused(call('x\x1b[2J\ny'), r'x\x1b[2J y is not there')
  refused(call('y' * 5000), 'yyy ... yyy')
  os.mkfifo('endless.npy')
  refused(call('endless.npy'), 'endless.npy is not there or no regular file')


def test_paths_that_give_no_images_are_refused(copy: pathlib.Path, call):
  (copy / 'empty').mkdir()
  refused(call('empty'), 'empty holds no image files')
  refused(call('images.npy', 'empty'), 'give an array alone')
  refused(call('images.npy', '--top=11'), '--top=11: give a number from 1 to 10')
  photographs(copy / 'photos')
  with mock.patch.dict(sys.modules, {'PIL': None, 'PIL.Image': None}):
    refused(call('photos'), 'Pillow is not installed, which reads images: pip install pillow.')
    assert call('images.npy')[0] == 0
