"""The graph of the whole cascade against the graphs of its paths, image by image."""

from collections.abc import Iterator
import functools
import json
import pathlib
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from dpoq_jax.core.spec import Laterals
from dpoq_jax.deploy.artifact import in_jax, rings
from dpoq_jax.deploy.onnx import cascade_graph, decision, graphs
from dpoq_jax.deploy.onnx import source as source_lib
from dpoq_jax.inference import combination, operating_point
from dpoq_jax.inference.combination import Combination
from dpoq_jax.inference.operating_point import OperatingPoint
from tests.conftest import REPOSITORY
from tests.deploy.onnx.conftest import made, session

PRETRAINED = REPOSITORY / 'dpoq_jax' / 'pretrained' / 'cifar10_resnet8'


def singly(source: source_lib.Source, pixels: np.ndarray) -> np.ndarray:
  """Returns the logits [precisions, images, classes] of the path graphs, an image at a time.

  In larger batches the float classifier may end on another last bit.
  """
  feeds: list[dict[str, Any]] = [{'images': pixels[k : k + 1]} for k in range(len(pixels))]
  logits = []
  for index in range(len(source.network.bits)):
    path = session(graphs.path_graph(source, index))
    outputs = [each.name for each in path.get_outputs()]
    inputs = [each.name for each in path.get_inputs()]
    own = []
    for fed in feeds:
      found = path.run(None, {name: fed[name] for name in inputs})
      fed |= dict(zip(outputs, found, strict=True))
      own.append(fed['logits'][0])
    logits.append(own)
  return np.array(logits)


def points(logits: np.ndarray, bits: tuple[int, ...]) -> list[OperatingPoint]:
  """Returns operating points of every combination, each with temperatures of its own.

  The lower thresholds are confidences themselves: those of the median image, of the surest and of
  the least sure in the middle half.
  """
  weighted = tuple(tuple(0.1 + 0.3 * j for j in range(k + 1)) for k in range(len(bits)))
  count = len(bits)
  made_of: list[tuple[Combination, combination.Weights, tuple[float, ...], float]] = [
    ('mean', combination.plain_weights('mean', count), (1.0,) * count, 0.5),
    ('last', combination.plain_weights('last', count), (0.7, 1.9, 1.3)[:count], 0.75),
    ('weighted', weighted, (1.5, 1.0, 0.8)[:count], 0.25),
  ]
  found = []
  for combine, weights, temperatures, quantile in made_of:
    point = operating_point.from_key(bits, 'normalised', 0.5, combine, weights, temperatures)
    confidence = [point.probabilities(k, each).max(-1) for k, each in enumerate(logits)]
    lower = [float(np.sort(each)[int(quantile * len(each))]) for each in confidence[:-1]]
    thresholds = dict(zip(bits, [*lower, 0.0], strict=True))
    found.append(point.model_copy(update={'thresholds': thresholds}))
  return found


def check(
  graph: onnxruntime.InferenceSession,
  pixels: np.ndarray,
  logits: np.ndarray,
  point: OperatingPoint,
  cap: int | None = None,
) -> np.ndarray:
  """Compares the graph with the operating point's own decision; returns the precisions."""
  wanted = (point if cap is None else point.capped(cap)).predict(logits)
  declared = {each.name for each in graph.get_overridable_initializers()}
  inputs = decision.inputs(json.loads(point.to_json()))
  if cap is not None:
    inputs[decision.MAX_BITS] = np.array([cap])
  inputs = {name: value for name, value in inputs.items() if name in declared}
  names = (decision.LABEL, decision.PROBABILITIES, decision.PRECISION)
  results = [graph.run(names, {'images': each[None], **inputs}) for each in pixels]
  labels, probabilities, precisions = map(np.concatenate, zip(*results, strict=True))
  np.testing.assert_array_equal(labels, wanted.labels)
  np.testing.assert_array_equal(precisions, np.array(point.bits)[wanted.exits])
  # Exponentials and sums of NumPy and of the runtime differ in their last bits.
  np.testing.assert_allclose(probabilities, wanted.probabilities, rtol=0, atol=1e-14)
  return precisions


@pytest.mark.parametrize(
  'kind',
  [
    {},
    {'name': 'vgg'},
    {'name': 'mobilenet'},
    {'bits': (2, 4), 'activation_bits': (4, 8)},
    {'bits': (2, 4), 'sum_logits': True},
    {'laterals': Laterals.BLOCK_ENDS},
    {'gamma': 0.0},
    {'bits': (8,)},
    {'bits': (32,), 'activation_bits': 32},
  ],
  ids=str,
)
def test_every_image_leaves_as_the_paths_and_the_point_say(kind: dict[str, Any]):
  source, pixels = made(**kind).source, made(**kind).images[:100]
  bits = source.network.bits
  graph = session(cascade_graph.cascade_graph(source))
  logits = singly(source, pixels)
  for point in points(logits, bits):
    precisions = check(graph, pixels, logits, point)
    assert set(precisions) == set(bits)
    for cap in bits[:-1]:
      assert set(check(graph, pixels, logits, point, cap)) == {b for b in bits if b <= cap}


def test_without_a_point_all_run_to_the_highest_precision_or_the_cap():
  source, pixels = made().source, made().images[:8]
  graph, logits = session(cascade_graph.cascade_graph(source)), singly(source, pixels)
  for cap, index in ((None, 2), (8, 2), (4, 1), (2, 0), (7, 1), (3, 0), (1, 0), (99, 2)):
    given = {} if cap is None else {decision.MAX_BITS: np.array([cap])}
    for each, wanted in zip(pixels, logits[index], strict=True):
      (label,), (found,), (precision,) = graph.run(None, {'images': each[None], **given})
      assert (label, precision) == (wanted.argmax(), source.network.bits[index])
      np.testing.assert_allclose(found, decision.probabilities(wanted), rtol=0, atol=1e-14)


def test_the_defaults_are_those_of_the_point():
  source, pixels = made().source, made().images[:50]
  logits = singly(source, pixels)
  for point in points(logits, source.network.bits):
    graph = session(cascade_graph.cascade_graph(source, json.loads(point.to_json())))
    wanted = point.predict(logits)
    found = [graph.run(['label', 'precision'], {'images': each[None]}) for each in pixels]
    labels, precisions = map(np.concatenate, zip(*found, strict=True))
    np.testing.assert_array_equal(labels, wanted.labels)
    np.testing.assert_array_equal(precisions, np.array(point.bits)[wanted.exits])


def test_a_threshold_above_one_keeps_what_is_as_sure_as_can_be():
  source, pixels = made().source, made().images[:4]
  graph = session(cascade_graph.cascade_graph(source))
  # So cold that all but one class have nothing.
  cold = {'images': pixels[:1], decision.TEMPERATURES: np.full(3, 1e-6)}
  for threshold, precision in ((1.0, 2), (np.nextafter(1.0, 2), 8)):
    results = graph.run(None, {**cold, decision.THRESHOLDS: np.full(3, threshold)})
    np.testing.assert_array_equal(results[1].max(), 1.0)
    assert results[2] == precision
    own = np.array([[0.0, 1.0]])
    assert decision.leaving(own, threshold) == (precision == 2)


def test_logits_that_say_nothing_make_all_classes_equal():
  source, pixels = made().source, made().images[:1]
  graph = session(cascade_graph.cascade_graph(source))
  # A temperature of which logits become infinite.
  results = graph.run(None, {'images': pixels, decision.TEMPERATURES: np.full(3, 1e-320)})
  np.testing.assert_array_equal(results[0], [0])
  np.testing.assert_array_equal(results[1], np.full((1, 10), 0.1))
  logits = singly(source, pixels)[-1]
  np.testing.assert_array_equal(decision.probabilities(logits, 1e-320), results[1])


def branches(graph: onnx.GraphProto) -> dict[str, onnx.GraphProto]:
  """Returns the branches of the only `If` of a graph by name; none where there is no `If`."""
  found = [node for node in graph.node if node.op_type == 'If']
  assert len(found) < 2
  return {attribute.name: attribute.g for node in found for attribute in node.attribute}


def paths_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
  """Yields what each path computes: the graph, and the branches one inside another."""
  yield graph
  if found := branches(graph):
    yield from paths_of(found['else_branch'])


def convolutions(graph: onnx.GraphProto) -> int:
  return [node.op_type for node in graph.node].count('Conv')


@pytest.mark.parametrize('sum_logits', [False, True])
def test_each_path_is_in_a_branch_of_its_own_and_no_weight_is_there_twice(sum_logits: bool):
  source = made(sum_logits=sum_logits).source
  model = cascade_graph.cascade_graph(source)
  onnx.checker.check_model(model, full_check=True)
  assert {each.domain for each in model.opset_import} == {''}
  levels = list(paths_of(model.graph))
  paths = [graphs.path_graph(source, index) for index in range(3)]
  assert list(map(convolutions, levels)) == [convolutions(path.graph) for path in paths]
  size, apart = model.ByteSize(), sum(path.ByteSize() for path in paths)
  assert size < apart
  large = [
    (each.dims, each.raw_data) for level in levels for each in level.initializer
    if len(each.raw_data) > 256
  ]  # fmt: skip
  assert len({(tuple(dims), data) for dims, data in large}) == len(large)
  # An image that leaves computes no more than what its exit predicts.
  for level in levels[:-1]:
    stops = branches(level)['then_branch']
    assert convolutions(stops) == 0
    assert len(stops.node) < 12
  shape = model.graph.input[0].type.tensor_type.shape
  assert [each.dim_value for each in shape.dim] == [1, 16, 16, 3]
  assert [each.name for each in model.graph.output] == ['label', 'probabilities', 'precision']
  initializers = {each.name for each in model.graph.initializer}
  assert {each.name for each in model.graph.input} - initializers == {'images'}


def test_a_network_of_one_precision_has_no_exit_to_choose():
  graph = cascade_graph.cascade_graph(made(bits=(8,)).source).graph
  assert [each.name for each in graph.input] == ['images', 'temperatures', 'weights']
  assert branches(graph) == {}


def test_the_runtime_fuses_every_branch_into_integer_kernels(tmp_path: pathlib.Path):
  source = made().source
  session(cascade_graph.cascade_graph(source), tmp_path / 'cascade.onnx')
  levels = list(paths_of(onnx.load(tmp_path / 'cascade.onnx').graph))
  for index, level in enumerate(levels):
    session(graphs.path_graph(source, index), tmp_path / 'path.onnx')
    kinds, alone = (
      [node.op_type for node in graph.node]
      for graph in (level, onnx.load(tmp_path / 'path.onnx').graph)
    )
    assert not {'Conv', 'FusedConv', 'ConvInteger', 'QuantizeLinear'} & set(kinds)
    for kind in ('QLinearConv', 'QLinearAdd', 'DequantizeLinear'):
      assert kinds.count(kind) == alone.count(kind)
    # What is read by a branch is not moved once more: the only one is of the weights of the exit.
    assert kinds.count('Transpose') <= alone.count('Transpose') + 1
  assert len(levels) == 3


@pytest.fixture(scope='module')
def cifar10(cifar10_binaries: pathlib.Path) -> tuple[source_lib.Source, np.ndarray]:
  """Returns the network for CIFAR-10 that comes with the library, and the real test images."""
  seen, images = (
    np.fromfile(cifar10_binaries / 'cifar-10-batches-bin' / file, np.uint8)
    .reshape(10_000, 3073)[:, 1:]
    .reshape(-1, 3, 32, 32)
    .transpose(0, 2, 3, 1)
    for file in ('data_batch_1.bin', 'test_batch.bin')
  )
  held = rings.load(PRETRAINED)
  return source_lib.prepare(in_jax.network_of(held), held.variables, seen[:512]), images


@functools.cache
def shipped_point() -> dict[str, Any]:
  """Returns the operating point that comes with that network."""
  return json.loads((PRETRAINED / 'manifest.json').read_text())['operating_points'][0]


@pytest.mark.parametrize('count', [200, pytest.param(10_000, marks=pytest.mark.nightly)])
def test_real_images_leave_as_the_paths_and_the_point_say(
  cifar10: tuple[source_lib.Source, np.ndarray], count: int
):
  source, images = cifar10[0], np.ascontiguousarray(cifar10[1][:count])
  logits = singly(source, images)
  graph = session(cascade_graph.cascade_graph(source, shipped_point()))
  shipped = operating_point.from_json(json.dumps(shipped_point()))
  for point in (shipped, *points(logits, source.network.bits)):
    assert set(check(graph, images, logits, point)) == {2, 4, 8}
    assert set(check(graph, images, logits, point, 4)) == {2, 4}


def test_a_cut_network_has_a_cascade_of_what_is_left(
  cifar10: tuple[source_lib.Source, np.ndarray],
):
  source, images = cifar10[0], np.ascontiguousarray(cifar10[1][:50])
  held = rings.load(PRETRAINED, max_bits=4)
  cut = source_lib.prepare(in_jax.network_of(held), held.variables, cifar10[1][:64])
  logits = singly(cut, images)
  point = operating_point.from_json(json.dumps(shipped_point())).lowest(2)
  graph = cascade_graph.cascade_graph(cut, json.loads(point.to_json()))
  assert graph.ByteSize() < 0.75 * cascade_graph.cascade_graph(source).ByteSize()
  assert set(check(session(graph), images, logits, point)) == {2, 4}


def test_another_runtime_stops_where_its_own_paths_say(
  cifar10: tuple[source_lib.Source, np.ndarray], tmp_path: pathlib.Path
):
  openvino = pytest.importorskip('openvino', reason='openvino is not installed')
  source, images = cifar10[0], np.ascontiguousarray(cifar10[1][:100])
  point = operating_point.from_json(json.dumps(shipped_point()))

  def compiled(model: onnx.ModelProto) -> Any:
    onnx.save(model, tmp_path / 'graph.onnx')
    read = openvino.Core().read_model(tmp_path / 'graph.onnx')
    read.reshape({each: [1, *list(each.partial_shape)[1:]] for each in read.inputs})
    # By default it computes in bfloat16 where a processor has it.
    return openvino.compile_model(read, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})

  graph = compiled(cascade_graph.cascade_graph(source, shipped_point()))
  models = [graphs.path_graph(source, index) for index in range(3)]
  paths = [(compiled(model), model.graph) for model in models]
  exits = []
  for image in images[:, None]:
    feeds: dict[str, Any] = {'images': image}
    logits = []
    for path, written in paths:
      results = path({each.name: feeds[each.name] for each in written.input})
      feeds |= {each.name: results[each.name] for each in written.output}
      logits.append(feeds['logits'])
    wanted, found = point.predict(np.array(logits)), graph(image)
    exits.append(int(found['precision'][0]))
    assert exits[-1] == point.bits[wanted.exits[0]]
    np.testing.assert_array_equal(found['label'], wanted.labels)
    # It computes what is float64 as float32.
    np.testing.assert_allclose(found['probabilities'], wanted.probabilities, atol=1e-5)
  assert set(exits) == {2, 4, 8}
