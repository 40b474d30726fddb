"""ONNX graphs against the networks they are made from."""

from collections.abc import Iterator
import functools
import io
import json
import os
import pathlib
import subprocess
import sys
from typing import Any, NamedTuple
from unittest import mock
import venv

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest

from dpoq_jax import models
from dpoq_jax.core import layers
from dpoq_jax.core.spec import LayerOptions, Merge, PathSpec
from dpoq_jax.deploy.onnx import export, graphs, integer_layers, predict, ranges, steps, writer
from dpoq_jax.deploy.onnx import source as source_lib
from dpoq_jax.inference import operating_point
from dpoq_jax.models import mobilenet
from dpoq_jax.network import onion_network
from tests.conftest import REPOSITORY

SIZES = {'resnet': {'depth': 8, 'width': 8}, 'vgg': {'width': 8}, 'mobilenet': {'width': 8}}
SHAPES = {'resnet': (16, 16, 3), 'vgg': (16, 16, 3), 'mobilenet': (8, 8, 3)}


def images(count: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
  """Blobs of colour: the means of noise alone differ by too little to be told apart."""
  rng = np.random.default_rng(seed)
  coarse = rng.normal(128, 70, (count, 4, 4, shape[2]))
  large = np.kron(coarse, np.ones((1, shape[0] // 4, shape[1] // 4, 1)))
  return np.clip(large + rng.normal(0, 20, (count, *shape)), 0, 255).astype(np.uint8)


@pytest.fixture(autouse=True, scope='module')
def shallow_mobilenet() -> Iterator[None]:
  """Untrained and at its full depth it turns a change of one pixel into other logits altogether."""
  stages = ((1, 16, 1, 1), (6, 16, 1, 1), (6, 24, 1, 2))
  with mock.patch.object(mobilenet, 'STAGES', stages):
    yield


class Made(NamedTuple):
  network: onion_network.Onion
  variables: dict[str, Any]
  source: source_lib.Source
  images: np.ndarray


@functools.cache
def made(
  name: str = 'resnet',
  bits: tuple[int, ...] = (2, 4, 8),
  activation_bits: int = 8,
  gamma: float | None = None,
) -> Made:
  """A calibrated network whose statistics have seen a batch; `gamma` replaces some scales."""
  network = onion_network.Onion(
    models.build(name, 10, SIZES[name]),
    bits,
    activation_bits,
    options=LayerOptions(shift_init=0.3, clip_init=2.5, momentum=0.0),
  )
  seen = images(64, SHAPES[name])
  jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})
  variables = jit(network.init)(jax.random.key(0), jnp.asarray(seen))
  update = jit(lambda variables: network.apply_and_update(variables, jnp.asarray(seen))[1])
  variables |= update(variables)
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
  options = onnxruntime.SessionOptions()
  options.log_severity_level = 3
  if optimized:
    options.optimized_model_filepath = str(optimized)
  return onnxruntime.InferenceSession(
    model.SerializeToString(), options, providers=['CPUExecutionProvider']
  )


def chain(source: source_lib.Source, pixels: np.ndarray) -> np.ndarray:
  """Logits [precisions, batch, classes] of the path graphs, one after the other."""
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
  jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})
  return np.asarray(jit(made.network.apply)(made.variables, made.images))


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
  """Root mean square error over the deviation between images, of the worst precision."""
  error = np.sqrt(np.square(found - wanted).mean(axis=(1, 2)))
  return float((error / wanted.std(axis=1).mean(axis=1)).max())


@pytest.mark.parametrize('name', SIZES)
def test_steps_read_off_a_trace_are_the_network(name: str):
  network, variables, source, pixels = made(name)
  found = ranges.logits(network, variables, source.paths, pixels[:8])
  wanted = expected(made(name))[:, :8]
  # A float32 sum in another order flips a code here and there.
  assert relative_error(found, wanted) < 0.02


@pytest.mark.parametrize(
  ('name', 'limit', 'equal'), [('resnet', 0.08, 0.93), ('vgg', 0.12, 0.93), ('mobilenet', 0.3, 0.8)]
)
def test_logits_are_those_of_the_network(name: str, limit: float, equal: float):
  example = made(name)
  wanted, found = expected(example), chain(example.source, example.images)
  assert relative_error(found, wanted) < limit
  assert (found.argmax(-1) == wanted.argmax(-1)).mean() > equal


def test_a_scale_of_zero_hands_up_features_all_the_same():
  example = made(gamma=0.0)
  wanted, found = expected(example), chain(example.source, example.images)
  assert relative_error(found, wanted) < 0.15


@pytest.mark.parametrize('activation_bits', [2, 4])
def test_activations_of_few_bits_keep_their_levels(activation_bits: int):
  example = made(bits=(2, 4), activation_bits=activation_bits)
  lowest = session(graphs.precision_graph(example.source, 0))
  plain = lowest.run(None, {'images': example.images})[0]
  # No tensor is rounded but to its levels. At a level's edge the last bit of a pre-activation moves
  # the code by a whole level, and untrained networks make much of it from layer to layer.
  assert relative_error(plain[None], expected(example)[:1]) < 0.4


def test_what_the_first_layer_hands_up_is_right_to_half_a_step():
  network, variables, source, pixels = made(bits=(2, 4), activation_bits=2)
  path = graphs.path_graph(source, 0)
  outputs = dict(
    zip([each.name for each in path.graph.output], session(path).run(None, {'images': pixels}),
        strict=True)
  )  # fmt: skip
  run = network.run_path(variables, 0, jnp.asarray(pixels))
  layer = integer_layers.layer(network, variables, 0, 'stem')
  z = np.asarray(run.laterals['lateral_2']['stem']['norm']['z'])
  wanted = layer.multiplier * z + layer.beta
  scale = writer.scale_of(*source.ranges[ranges.handed_up(0, 'stem')])
  bounds = (np.array([0, writer.LEVELS]) - scale.zero) * scale.step
  found = (outputs['lateral_2/stem'].astype(np.float64) - scale.zero) * scale.step
  # Half a step of its own, and of the bias.
  np.testing.assert_allclose(found, np.clip(wanted, *bounds), atol=0.53 * scale.step)


def test_an_individual_network_of_eight_bits_and_a_float_one():
  example = made(bits=(8,))
  assert relative_error(chain(example.source, example.images), expected(example)) < 0.08
  example = made(bits=(32,), activation_bits=32)
  np.testing.assert_allclose(
    chain(example.source, example.images), expected(example), rtol=1e-3, atol=1e-3
  )


def test_the_graph_of_the_highest_precision_is_the_chain_of_paths():
  source, pixels = made().source, made().images
  whole = session(graphs.precision_graph(source, 2)).run(None, {'images': pixels})[0]
  np.testing.assert_array_equal(whole, chain(source, pixels)[-1])


def test_every_path_is_traced_once_for_all_graphs():
  network, variables, _, pixels = made(bits=(2, 4), activation_bits=2)
  with mock.patch.object(steps, 'trace', wraps=steps.trace) as trace:
    source = source_lib.prepare(network, variables, pixels[:8])
    for index in range(len(network.bits)):
      graphs.path_graph(source, index)
      graphs.precision_graph(source, index)
  assert [call.args[1] for call in trace.call_args_list] == [0, 1]


@pytest.mark.parametrize('index', [0, 1, 2])
def test_the_runtime_fuses_all_into_integer_kernels(index: int, tmp_path: pathlib.Path):
  for make in (graphs.path_graph, graphs.precision_graph):
    file = tmp_path / f'{make.__name__}.onnx'
    session(make(made().source, index), file)
    kinds = [node.op_type for node in onnx.load(file).graph.node]
    assert 'QLinearConv' in kinds
    assert not {'Conv', 'FusedConv', 'ConvInteger', 'Add', 'QuantizeLinear'} & set(kinds)
    # Before the float classifier, once.
    assert kinds.count('DequantizeLinear') == 1


def test_the_lowest_precision_is_a_plain_chain():
  graph = graphs.precision_graph(made().source, 0).graph
  kinds = [node.op_type for node in graph.node]
  assert not {'Clip', 'Pad'} & set(kinds)
  # Its seven, and two that widen a shortcut.
  assert kinds.count('Conv') == 7 + 2
  assert [each.name for each in graph.output] == ['logits']
  assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == 'batch'


def test_what_has_no_integer_graph_is_refused():
  network, variables, _, pixels = made(bits=(2, 4), activation_bits=4)
  vanilla = onion_network.Onion(network.model, (2, 4), options=LayerOptions(merge=Merge.VANILLA))
  wide = onion_network.Onion(network.model, (2, 16))
  fine = onion_network.Onion(network.model, (2, 4), activation_bits=12)
  for refused, reason in ((vanilla, 'vanilla'), (wide, '14 bits'), (fine, 'activation_bits=12')):
    with pytest.raises(ValueError, match=reason):
      source_lib.prepare(refused, variables, pixels)


def test_a_model_with_other_operations_is_refused_by_their_name():
  class Odd(nn.Module):
    spec: PathSpec = PathSpec()
    num_classes: int = 10

    @nn.compact
    def __call__(self, pixels, train=False):
      x = layers.quantizers.image_codes(pixels)
      y = layers.ConvNorm(self.spec, 4, name='conv')(x, train)
      return nn.Dense(self.num_classes)(jnp.tanh(y).mean(axis=(1, 2)))

  with pytest.raises(steps.UnsupportedStepError, match='tanh'):
    steps.trace(onion_network.Onion(Odd(), (2,)), 0, (8, 8, 3))


class OwnNet(nn.Module):
  """Layers of Flax beside those of the library."""

  spec: PathSpec = PathSpec()
  num_classes: int = 10
  float_layer: bool = False

  @nn.compact
  def __call__(self, pixels, train=False):
    x = layers.quantizers.image_codes(pixels)
    x = layers.PACT(self.spec, name='pact')(layers.ConvNorm(self.spec, 4, name='conv')(x, train))
    features = nn.Conv(4, (3, 3), name='float')(x.value) if self.float_layer else x.value
    return nn.Dense(self.num_classes, use_bias=False, name='head')(features.mean(axis=(1, 2)))


def test_a_classifier_may_have_no_bias_and_layers_with_parameters_are_refused():
  shape = (8, 8, 3)
  network, pixels = onion_network.Onion(OwnNet(num_classes=3), (4,)), images(16, shape)
  variables = jax.device_get(network.freeze(network.init(jax.random.key(0), jnp.asarray(pixels))))
  source = source_lib.prepare(network, variables, pixels)
  wanted = np.asarray(network.apply(variables, jnp.asarray(pixels)))
  assert relative_error(chain(source, pixels), wanted) < 0.1
  other = onion_network.Onion(OwnNet(float_layer=True), (4,))
  with pytest.raises(steps.UnsupportedStepError, match=r'outside of ConvNorm.*"/float"'):
    steps.trace(other, 0, shape)


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """The export of `made()` with an operating point."""
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
  # A device need not hold what it does not run.
  (tmp_path / 'path_2.onnx').unlink()
  assert len(predict.Network(tmp_path).predict_at(made().images[:2], 2).labels) == 2
  with pytest.raises(FileExistsError):
    export.write(folder, made().network, made().variables, made().images, class_names=())


@pytest.mark.slow
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
  # The test's own stream, which is no file.
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
