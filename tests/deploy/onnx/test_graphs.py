"""ONNX graphs against the networks they are made from."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest

from dpoq_jax.core.spec import Laterals, LayerOptions, Merge
from dpoq_jax.deploy.onnx import graphs, integer_layers, operators, ranges
from dpoq_jax.deploy.onnx import source as source_lib
from dpoq_jax.network import companions, onion_network
from tests.deploy.onnx.conftest import Made, chain, expected, made, relative_error, session


@pytest.mark.parametrize('laterals', Laterals)
@pytest.mark.parametrize(
  ('name', 'limit', 'equal'), [('resnet', 0.08, 0.93), ('vgg', 0.12, 0.93), ('mobilenet', 0.3, 0.8)]
)
def test_logits_are_those_of_the_network(name: str, limit: float, equal: float, laterals: Laterals):
  example = made(name, laterals=laterals)
  wanted, found = expected(example), chain(example.source, example.images)
  assert relative_error(found, wanted) < limit
  assert (found.argmax(-1) == wanted.argmax(-1)).mean() > equal


def test_a_scale_of_zero_hands_up_features_all_the_same():
  example = made(gamma=0.0)
  wanted, found = expected(example), chain(example.source, example.images)
  assert relative_error(found, wanted) < 0.15


@pytest.mark.parametrize(('first', 'second'), [(0.0, 1e-3), (-0.0, -1e-3), (1e-30, 0.0)])
def test_a_channel_that_nothing_reads_may_lie_beside_a_small_one(first: float, second: float):
  network, variables, _, pixels = made(bits=(2, 4))

  def replaced(path: Any, leaf: np.ndarray) -> np.ndarray:
    if path[-1].key == 'scale':
      # What is handed up has a multiplier of its own where gamma is small and a shift is not.
      return np.concatenate([np.array([first, second], np.float32), leaf[2:]])
    if path[-1].key.startswith('shift'):
      return np.concatenate([np.zeros(1, np.float32), leaf[1:]])
    return leaf

  changed = {
    **variables, 'params': jax.tree_util.tree_map_with_path(replaced, variables['params'])
  }  # fmt: skip
  source = source_lib.prepare(network, changed, pixels[:64])
  example = Made(network, changed, source, pixels)
  assert relative_error(chain(source, pixels), expected(example)) < 0.15


@pytest.mark.parametrize('activation_bits', [2, 4])
def test_activations_of_few_bits_keep_their_levels(activation_bits: int):
  example = made(bits=(2, 4), activation_bits=activation_bits)
  lowest = session(graphs.precision_graph(example.source, 0))
  plain = lowest.run(None, {'images': example.images})[0]
  # Tensors are rounded to their levels and to nothing else. But at the edge of a level the last bit
  # of a pre-activation moves its code by a whole level, which grows from layer to layer where a
  # network is not trained.
  assert relative_error(plain[None], expected(example)[:1]) < 0.4


def test_every_path_has_activations_of_its_own_width():
  example = made(bits=(2, 4), activation_bits=(4, 8))
  wanted, found = expected(example), chain(example.source, example.images)
  assert relative_error(found, wanted) < 0.4
  assert relative_error(found[1:], wanted[1:]) < 0.2
  # Codes of 4 bits are clipped, those of 8 saturate.
  first, second = (graphs.path_graph(example.source, k).graph.node for k in range(2))
  assert 'Clip' in {node.op_type for node in first}
  assert 'Clip' not in {node.op_type for node in second}


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
  scale = operators.scale_of(*source.ranges[ranges.handed_up(0, 'stem')])
  bounds = (np.array([0, operators.LEVELS]) - scale.zero) * scale.step
  found = (outputs['lateral_2/stem'].astype(np.float64) - scale.zero) * scale.step
  # Half a step of rounding, and a little for the rounding of the bias.
  np.testing.assert_allclose(found, np.clip(wanted, *bounds), atol=0.53 * scale.step)


def test_an_individual_network_of_eight_bits_and_a_float_one():
  example = made(bits=(8,))
  assert relative_error(chain(example.source, example.images), expected(example)) < 0.08
  example = made(bits=(32,), activation_bits=32)
  np.testing.assert_allclose(
    chain(example.source, example.images), expected(example), rtol=1e-3, atol=1e-3
  )


def test_what_paths_hand_up_at_the_ends_of_blocks_alone_is_all_they_read():
  example = made(laterals=Laterals.BLOCK_ENDS)
  ends = [f'stage{stage}_block1/conv2' for stage in (1, 2, 3)]
  first, second, third = (graphs.path_graph(example.source, k).graph for k in range(3))
  low, high = ([f'lateral_{bits}/{each}' for each in ends] for bits in (2, 4))
  assert [each.name for each in first.output] == ['logits', *low]
  assert {each.name for each in second.input} == {'images', *low}
  assert [each.name for each in second.output] == ['logits', *high]
  assert {each.name for each in third.input} == {'images', *low, *high}


@pytest.mark.parametrize('laterals', Laterals)
def test_the_graph_of_the_highest_precision_is_the_chain_of_paths(laterals: Laterals):
  source, pixels = made(laterals=laterals).source, made().images
  whole = session(graphs.precision_graph(source, 2)).run(None, {'images': pixels})[0]
  np.testing.assert_array_equal(whole, chain(source, pixels)[-1])


def test_logits_of_the_path_below_are_added():
  example, plain = made(bits=(2, 4), sum_logits=True), made(bits=(2, 4))
  wanted, found = expected(example), chain(example.source, example.images)
  assert relative_error(found, wanted) < 0.08
  np.testing.assert_array_equal(found[0], chain(plain.source, plain.images)[0])
  added = found[1] - chain(plain.source, plain.images)[1]
  np.testing.assert_allclose(added, 2 * found[0], rtol=1e-4, atol=1e-4)
  whole = session(graphs.precision_graph(example.source, 1))
  np.testing.assert_array_equal(whole.run(None, {'images': example.images})[0], found[1])
  np.testing.assert_allclose(
    ranges.logits(example.network, example.variables, example.source.paths, example.images[:8]),
    wanted[:, :8], rtol=1e-3, atol=1e-3,
  )  # fmt: skip
  lower, higher = (graphs.path_graph(example.source, k).graph for k in range(2))
  assert 'lateral_2/logits' in {each.name for each in lower.output}
  assert 'lateral_2/logits' in {each.name for each in higher.input}


def test_nothing_of_companions_is_in_a_graph():
  example = made(bits=(2, 4))
  variables = companions.Companions(example.network, (8,)).init(
    jax.random.key(0), jnp.asarray(example.images[:1])
  )
  of_companions = {k: v for k, v in variables['params'].items() if k.startswith('companion')}
  assert of_companions
  params = {**example.variables['params'], **of_companions}
  source = example.source._replace(variables={**example.variables, 'params': params})
  for make in (graphs.path_graph, graphs.precision_graph):
    for index in range(2):
      assert make(source, index) == make(example.source, index)


@pytest.mark.parametrize('index', [0, 1, 2])
def test_the_runtime_fuses_all_into_integer_kernels(index: int, tmp_path: pathlib.Path):
  for make in (graphs.path_graph, graphs.precision_graph):
    file = tmp_path / f'{make.__name__}.onnx'
    session(make(made().source, index), file)
    kinds = [node.op_type for node in onnx.load(file).graph.node]
    assert 'QLinearConv' in kinds
    assert not {'Conv', 'FusedConv', 'ConvInteger', 'Add', 'QuantizeLinear'} & set(kinds)
    # Integers become floats once, before the classifier.
    assert kinds.count('DequantizeLinear') == 1


def test_the_lowest_precision_is_a_plain_chain():
  graph = graphs.precision_graph(made().source, 0).graph
  kinds = [node.op_type for node in graph.node]
  assert not {'Clip', 'Pad'} & set(kinds)
  # Seven of its own, and two that widen a shortcut.
  assert kinds.count('Conv') == 7 + 2
  assert [each.name for each in graph.output] == ['logits']
  assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == 'batch'


def test_what_has_no_integer_graph_is_refused():
  network, variables, _, pixels = made(bits=(2, 4), activation_bits=4)
  vanilla = onion_network.Onion(network.model, (2, 4), options=LayerOptions(merge=Merge.VANILLA))
  wide = onion_network.Onion(network.model, (2, 16))
  fine = onion_network.Onion(network.model, (2, 4), activation_bits=12)
  mixed = onion_network.Onion(network.model, (2, 4), activation_bits=(8, 32))
  for refused, reason in (
    (vanilla, 'vanilla'),
    (wide, '14 bits'),
    (fine, 'activation_bits=12'),
    (mixed, 'activations of 32 bits'),
  ):
    with pytest.raises(ValueError, match=reason):
      source_lib.prepare(refused, variables, pixels)
