"""Networks, the logits of their ONNX graphs, and the folder of an export."""

from collections.abc import Iterator
import functools
import io
import json
import pathlib
import shutil
import sys
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
from PIL import Image
import pytest

from dpoq_jax import models
from dpoq_jax.core.names import LOGIT_SCALE
from dpoq_jax.core.spec import Laterals, LayerOptions
from dpoq_jax.deploy.onnx import export, graphs, predict
from dpoq_jax.deploy.onnx import source as source_lib
from dpoq_jax.inference import operating_point
from dpoq_jax.models import mobilenet
from dpoq_jax.network import onion_network
from tests.fast import jit

SIZES = {'resnet': {'depth': 8, 'width': 8}, 'vgg': {'width': 8}, 'mobilenet': {'width': 8}}
SHAPES = {'resnet': (16, 16, 3), 'vgg': (16, 16, 3), 'mobilenet': (8, 8, 3)}


def images(count: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
  """Makes blobs of colour: means of noise alone are so alike that no network tells them apart."""
  rng = np.random.default_rng(seed)
  coarse = rng.normal(128, 70, (count, 4, 4, shape[2]))
  large = np.kron(coarse, np.ones((1, shape[0] // 4, shape[1] // 4, 1)))
  return np.clip(large + rng.normal(0, 20, (count, *shape)), 0, 255).astype(np.uint8)


@pytest.fixture(autouse=True, scope='module')
def shallow_mobilenet() -> Iterator[None]:
  """Makes MobileNet shallow: untrained and deep, it answers a changed pixel with other logits."""
  stages = ((1, 16, 1, 1), (6, 16, 1, 1), (6, 24, 1, 2))
  with mock.patch.object(mobilenet, 'STAGES', stages):
    yield


class Made(NamedTuple):
  """Holds a network, what its graphs are made from, and images it has not seen."""

  network: onion_network.Onion
  variables: dict[str, Any]
  source: source_lib.Source
  images: np.ndarray


@functools.cache
def made(
  name: str = 'resnet',
  bits: tuple[int, ...] = (2, 4, 8),
  activation_bits: int | tuple[int, ...] = 8,
  gamma: float | None = None,
  sum_logits: bool = False,
  laterals: Laterals = Laterals.EVERY_LAYER,
) -> Made:
  """Makes a frozen network whose statistics have seen a batch; `gamma` replaces some scales."""
  network = onion_network.Onion(
    models.build(name, 10, SIZES[name]),
    bits,
    activation_bits,
    options=LayerOptions(shift_init=0.3, clip_init=2.5, momentum=0.0, laterals=laterals),
    sum_logits=sum_logits,
  )
  seen = images(64, SHAPES[name])
  variables = jit(network.init)(jax.random.key(0), jnp.asarray(seen))
  update = jit(lambda variables: network.apply_and_update(variables, jnp.asarray(seen))[1])
  variables |= update(variables)
  for params in variables['params'].values():
    if LOGIT_SCALE in params:
      params[LOGIT_SCALE] += 2.0
  if gamma is not None:
    paths = [each for each, _ in jax.tree_util.tree_leaves_with_path(variables['params'])]
    assert any(path[-1].key == 'scale' for path in paths)
    variables = jax.tree_util.tree_map_with_path(
      lambda path, leaf: leaf.at[::3].set(gamma) if path[-1].key == 'scale' else leaf,
      variables,
    )
  frozen = jax.device_get(network.freeze(variables))
  source = source_lib.prepare(network, frozen, seen)
  return Made(network, frozen, source, images(200, SHAPES[name], seed=1))


def session(model: onnx.ModelProto, optimized: pathlib.Path | None = None) -> Any:
  """Opens a graph; writes it as the runtime has optimized it, if a file is given."""
  options = onnxruntime.SessionOptions()
  options.log_severity_level = 3
  if optimized:
    options.optimized_model_filepath = str(optimized)
  return onnxruntime.InferenceSession(
    model.SerializeToString(), options, providers=['CPUExecutionProvider']
  )


def chain(source: source_lib.Source, pixels: np.ndarray) -> np.ndarray:
  """Returns the logits [precisions, batch, classes] of the path graphs, run one after another."""
  feeds, logits = {'images': pixels}, []
  for index in range(len(source.network.bits)):
    path = session(graphs.path_graph(source, index))
    names = [each.name for each in path.get_outputs()]
    inputs = {each.name: feeds[each.name] for each in path.get_inputs()}
    outputs = dict(zip(names, path.run(None, inputs), strict=True))
    logits.append(outputs.pop('logits'))
    feeds |= outputs
  return np.stack(logits)


def expected(made: Made) -> np.ndarray:
  """Returns the logits [precisions, batch, classes] of the network."""
  return np.asarray(jit(made.network.apply)(made.variables, made.images))


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
  """Returns the error of the worst precision: root mean square over the deviation of images."""
  error = np.sqrt(np.square(found - wanted).mean(axis=(1, 2)))
  return float((error / wanted.std(axis=1).mean(axis=1)).max())


@pytest.fixture(scope='session')
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Returns the export of `made()` with an operating point."""
  network, _, source, pixels = made()
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
    source,
    class_names=tuple('abcdefghij'),
    operating_points=(json.loads(point.to_json()),),
  )
  return path


@pytest.fixture
def copy(
  folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> pathlib.Path:
  """Returns a copy of the export, the current directory, with three images in it."""
  path = pathlib.Path(shutil.copytree(folder, tmp_path / 'copy'))
  monkeypatch.chdir(path)
  np.save('images.npy', made().images[:3])
  return path


@pytest.fixture
def call(copy: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys) -> Any:
  """Returns a function that runs the command in the copy: to its status and both streams."""

  def run(*words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(predict, '__file__', str(copy / 'predict.py'))
    monkeypatch.setattr(sys, 'argv', ['predict.py', *words])
    # The stream that pytest puts in its place is no file.
    written = io.TextIOWrapper(io.BytesIO(), 'utf-8')
    with mock.patch.object(sys, 'stdout', written):
      status = predict.main()
      written.seek(0)
      return status, written.read(), capsys.readouterr().err

  return run


def refused(found: tuple[int, str, str], expected: str) -> None:
  """Expects exit status 2 and one line of stderr."""
  status, out, err = found
  assert (status, out) == (2, '')
  assert err.startswith('error: ')
  assert expected in err
  assert err.count('\n') == 1
  assert err[:-1].isprintable()
  assert len(err) < 1200


def photographs(folder: pathlib.Path) -> None:
  """Writes images of several sizes and modes, one turned by its EXIF, and what is no image."""
  (folder / 'inner').mkdir(parents=True)
  first, second, third, fourth = (Image.fromarray(each) for each in made().images[:4])
  first.save(folder / 'a.png')
  exif = Image.Exif()
  exif[0x0112] = 6
  second.resize((50, 31)).save(folder / 'b.jpg', exif=exif)
  third.convert('L').save(folder / 'inner' / 'c.png')
  fourth.convert('RGBA').resize((9, 40)).save(folder / 'inner' / 'd.png')
  (folder / 'broken.png').write_bytes(b'\x89PNG')
  (folder / 'notes.txt').touch()
