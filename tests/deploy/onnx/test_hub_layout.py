"""What other tools read of an export: graphs that take `pixel_values`, and the JSON beside them."""

import hashlib
import json
import pathlib

import numpy as np
import onnx
from PIL import Image
import pytest

from dpoq_jax.deploy import graph_folder
from dpoq_jax.deploy.onnx import export, graphs, hub_layout
from dpoq_jax.deploy.onnx import source as source_lib
from tests.deploy.conftest import IMAGES, frozen
from tests.deploy.onnx.conftest import images, made, session
from tests.deploy.rewriting import rewritten


def pixel_values(pixels: np.ndarray) -> np.ndarray:
  """Returns images as other tools prepare them: from 0 to 1, channels first."""
  return np.moveaxis(pixels.astype(np.float32) * np.float32(1 / 255), -1, 1)


@pytest.mark.parametrize('index', [0, 1, 2])
def test_pixel_values_give_the_logits_of_the_precision(index: int):
  source, pixels = made().source, made().images
  model = graphs.pixel_values_graph(source, index)
  onnx.checker.check_model(model, full_check=True)
  found = session(model)
  (given,), (logits,) = found.get_inputs(), found.get_outputs()
  assert (given.name, given.type, given.shape) == (
    'pixel_values', 'tensor(float)', ['batch', 3, 16, 16]
  )  # fmt: skip
  assert (logits.name, logits.type, logits.shape) == ('logits', 'tensor(float)', ['batch', 10])
  plain = session(graphs.precision_graph(source, index))
  wanted = plain.run(None, {'images': pixels})[0]
  values = pixel_values(pixels)
  np.testing.assert_array_equal(found.run(None, {'pixel_values': values})[0], wanted)
  # What lies between two pixels' values, as after resizing, is the nearer one; beyond, the last.
  off = values + np.float32(0.4 / 255) * np.random.default_rng(2).choice([-1, 1], values.shape)
  np.testing.assert_array_equal(
    found.run(None, {'pixel_values': off.astype(np.float32)})[0], wanted
  )
  beyond = session(model).run(None, {'pixel_values': values * 9 - 4})[0]
  cut = np.clip(np.rint((pixels / 255 * 9 - 4) * 255), 0, 255).astype(np.uint8)
  np.testing.assert_allclose(beyond, plain.run(None, {'images': cut})[0], atol=0.2)


def test_a_float_network_takes_them_too():
  example = made(bits=(32,), activation_bits=32)
  wanted = session(graphs.precision_graph(example.source, 0)).run(None, {'images': example.images})
  found = session(graphs.pixel_values_graph(example.source, 0)).run(
    None, {'pixel_values': pixel_values(example.images)}
  )
  np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5, atol=1e-5)


def test_a_network_of_grey_images_is_given_colours():
  example = frozen((2, 4))
  kernel = example.variables['onion']['stem']['conv']['kernel']
  onion = {**example.variables['onion'], 'stem': {'conv': {'kernel': kernel[:, :, :1]}}}
  coloured = images(64, (8, 8, 3))
  # Pillow's own grey, of every picture.
  grey = np.stack([np.asarray(Image.fromarray(each).convert('L')) for each in coloured])[..., None]
  source = source_lib.prepare(example.network, {**example.variables, 'onion': onion}, grey)
  for index in range(2):
    wanted = session(graphs.precision_graph(source, index)).run(None, {'images': grey})[0]
    model = session(graphs.pixel_values_graph(source, index))
    for pixels in (coloured, grey.repeat(3, axis=-1)):
      found = model.run(None, {'pixel_values': pixel_values(pixels)})[0]
      np.testing.assert_array_equal(found, wanted)


@pytest.fixture(params=[None, 10])
def folder(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> pathlib.Path:
  example = frozen((2, 4))
  prepared = source_lib.prepare(example.network, example.variables, IMAGES)
  export.write(tmp_path, prepared, class_names=tuple('abcde'), resize=request.param)
  return tmp_path


def test_the_folder_is_laid_out_for_other_tools(folder: pathlib.Path):
  manifest = graph_folder.read(folder, 'ONNX graphs', 'calibration_images')
  entries = {entry['file']: entry for entry in manifest['other_tools']}
  files = {path.relative_to(folder).as_posix() for path in (folder / 'onnx').iterdir()}
  assert set(entries) == files == {f'onnx/model{end}.onnx' for end in ('', '_q2', '_q4')}
  for name, entry in entries.items():
    content = (folder / name).read_bytes()
    assert (entry['bytes'], entry['sha256']) == (len(content), hashlib.sha256(content).hexdigest())
    assert entry['inputs'] == ['pixel_values']
  assert (folder / 'onnx/model.onnx').read_bytes() == (folder / 'onnx/model_q4.onnx').read_bytes()

  config = json.loads((folder / 'config.json').read_text())
  assert config['id2label'] == dict(zip('01234', 'abcde', strict=True))
  assert config['label2id'] == {'a': 0, 'b': 1, 'c': 2, 'd': 3, 'e': 4}
  processor = json.loads((folder / 'preprocessor_config.json').read_text())
  assert processor['rescale_factor'] == pytest.approx(1 / 255)
  assert processor['do_center_crop'] == (manifest['resize'] == 10)
  shape = {'height': 8, 'width': 8}
  assert processor['size'] == ({'shortest_edge': 10} if manifest['resize'] else shape)
  assert processor['crop_size'] == shape


@pytest.mark.parametrize('resize', [7, '8', True, 2**15])
def test_a_resize_that_makes_no_sense_is_refused(resize: object, folder: pathlib.Path):
  rewritten(folder, lambda manifest: manifest.update(resize=resize))
  with pytest.raises(ValueError, match=r'resize is .*: a number from 8 to 16384, or none is all'):
    graph_folder.read(folder, 'ONNX graphs', 'calibration_images')


@pytest.mark.parametrize(
  ('precision', 'name'), [(2, 'model_q2.onnx'), (3, 'model_q3.onnx'), (8, 'model_quantized.onnx')]
)
def test_graphs_have_the_names_of_dtypes(precision: int, name: str):
  assert hub_layout.file_name(precision) == name
