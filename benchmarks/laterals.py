"""Measures what laterals cost an integer runtime beside a path's convolutions.

    python -m benchmarks.laterals [--rounds=31] [--data-dir=D] [--json=FILE]

Graphs of the higher paths of an untrained ResNet-20 of 2, 4 and 8 bits, which is as fast as a
trained one, on ONNX Runtime with one thread, in turn, round after round: paths that meet at every
layer and at the ends of blocks alone, each with one merge a layer, as graphs have it, and with a
merge for each pair of paths, as they had it before; and the same convolutions without laterals.
Times are those of the processor in the thread that runs a graph, which leave out waits for others.

With `--data-dir` graphs of the bundled CIFAR-10 network predict the 10,000 test images: top-1, and
the share of labels that are the network's own.
"""

import functools
import json
import pathlib
import statistics
import time
from typing import Any, NamedTuple

from absl import flags, logging
from flax import traverse_util
import jax
import numpy as np
import onnx
import rich.table

from benchmarks import command, untrained
from dpoq_jax import classifier, models
from dpoq_jax.core.names import SHIFT_PREFIX
from dpoq_jax.core.spec import Laterals
from dpoq_jax.data import in_memory
from dpoq_jax.deploy.onnx import graphs
from dpoq_jax.deploy.onnx import source as source_lib
from dpoq_jax.deploy.onnx.operators import Scale, Tensor, Writer
from dpoq_jax.network import trees

_JSON = flags.DEFINE_string('json', None, 'file for the figures')
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'where CIFAR-10 is, to compare labels, too')
_ROUNDS = flags.DEFINE_integer('rounds', 31, 'rounds that are measured, after one that is not')

_BITS = (2, 4, 8)
# Calls in a round, by the number of images.
_CALLS = {1: 8, 64: 1}
_NETWORK, _RANGE_IMAGES, _BATCH = 'cifar10_resnet8', 512, 500
_NO_LATERALS = 'no laterals'
_FIGURES = ('ms_per_image', 'times_no_laterals')


class _PairWriter(Writer):
  """Writes weighted sums term by term, each rounded to 8 bits.

  A depthwise convolution for each term that has a factor, an addition for each but the first. Terms
  are on the scale of the result: another one takes as long, but rounds otherwise.
  """

  def weighted_sum(self, terms: Any, bias: np.ndarray, scale: Scale, size: Any) -> Tensor:
    """Adds the sum; see `Writer.weighted_sum`."""
    del size
    written: list[Tensor] = []
    for x, factor in terms:
      if np.any(factor != 1):
        kernel = np.full((1, 1, 1, len(factor)), 127)
        x = self.convolution(x, kernel, factor / 127, bias, scale, shared=len(factor))
      written.append(x)
    return functools.reduce(lambda a, b: self.sum(a, b, scale), written)


class _System(NamedTuple):
  """Holds a graph that is timed.

  Attributes:
    session: the graph.
    feeds: its inputs by name, [64, ...] each.
    operations: convolutions, additions and concatenations in it.
  """

  session: Any
  feeds: dict[str, np.ndarray]
  operations: int


def main(_: list[str]) -> None:
  """Times all graphs, compares labels, prints the tables and writes the figures."""
  import onnxruntime

  logging.set_verbosity(logging.ERROR)
  images = np.random.default_rng(0).integers(0, 256, (max(_CALLS), 32, 32, 3), dtype=np.uint8)
  paths = {f'path {index + 1}': _systems(images, index) for index in range(1, len(_BITS))}
  figures = {path: _measure(systems) for path, systems in paths.items()}
  result: dict[str, Any] = {
    'onnxruntime': onnxruntime.__version__, 'threads': 1, 'bits': _BITS, 'rounds': _ROUNDS.value,
    'paths': figures,
  }  # fmt: skip
  _show(figures)
  if _DATA_DIR.value:
    result['labels'] = _labels(_DATA_DIR.value)
    command.console().print_json(data=result['labels'])
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(result, indent=1) + '\n')


def _systems(images: np.ndarray, index: int) -> dict[str, _System]:
  """Returns what is timed of a path, by name."""
  systems: dict[str, _System] = {}
  for laterals, where in ((Laterals.EVERY_LAYER, 'every layer'), (Laterals.BLOCK_ENDS, 'ends')):
    source = _untrained(laterals, images)
    fed: dict[str, Any] = {'images': images}
    for lower in range(index):
      fed |= _run(_open(_graph(source, lower, Writer())), fed)
    kinds = {f'{where}, pairs': _PairWriter, f'{where}, merged': Writer}
    for name, writer in kinds.items():
      systems[name] = _system(_graph(source, index, writer()), fed)
    if laterals is Laterals.EVERY_LAYER:
      systems[_NO_LATERALS] = _system(_graph(_without_shifts(source), index, Writer()), fed)
  return systems


def _untrained(laterals: Laterals, images: np.ndarray) -> source_lib.Source:
  """Prepares a network that is not trained."""
  network = untrained.build(models.CifarResNet(depth=20), _BITS, 8, laterals)
  return source_lib.prepare(network, untrained.variables(network, images), images)


def _without_shifts(source: source_lib.Source) -> source_lib.Source:
  """Returns a network whose paths read nothing: what has no shift is not read."""
  params = trees.flatten(source.variables['params'])
  kept = {path: leaf for path, leaf in params.items() if not path[-1].startswith(SHIFT_PREFIX)}
  variables = {**source.variables, 'params': traverse_util.unflatten_dict(kept)}
  return source._replace(variables=variables)


def _graph(source: source_lib.Source, index: int, writer: Writer) -> onnx.ModelProto:
  """Returns the graph of a path, as `graphs.path_graph` has it, by a given writer."""
  writer.input(graphs.IMAGES, np.uint8, source.image_shape)
  path = graphs.write_path(source, index, writer, graphs.pixels(writer), writer.input)
  writer.output(path.logits, graphs.LOGITS, np.float32, source.paths[index][-1].shape)
  for name, each in path.handed_up.items():
    writer.output(each.tensor, name, each.dtype, each.shape)
  return writer.model('path')


def _system(model: onnx.ModelProto, fed: dict[str, np.ndarray]) -> _System:
  """Opens a graph to be timed, on what lower paths handed up."""
  session = _open(model)
  feeds = {each.name: fed[each.name] for each in session.get_inputs()}
  kinds = [node.op_type for node in model.graph.node]
  return _System(session, feeds, sum(map(kinds.count, ('Conv', 'Add', 'Concat'))))


def _open(model: onnx.ModelProto) -> Any:
  """Opens a graph on one thread."""
  from dpoq_jax.deploy.onnx import graph_network

  return graph_network.session(model.SerializeToString(), 1)


def _run(session: Any, fed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the outputs of a graph by name."""
  names = [each.name for each in session.get_outputs()]
  found = session.run(None, {each.name: fed[each.name] for each in session.get_inputs()})
  return dict(zip(names, found, strict=True))


def _measure(systems: dict[str, _System]) -> dict[str, dict[str, Any]]:
  """Times the systems in turn.

  Returns:
    For each system its number of `operations` and, by the number of images in a batch, medians of
    `ms_per_image` and of its ratios to the one without laterals in a round, `times_no_laterals`.
  """
  figures: dict[str, dict[str, Any]] = {
    name: {'operations': each.operations, **{key: {} for key in _FIGURES}}
    for name, each in systems.items()
  }
  for size, calls in _CALLS.items():
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    feeds = {
      name: {key: tensor[:size] for key, tensor in each.feeds.items()}
      for name, each in systems.items()
    }
    for number in range(_ROUNDS.value + 1):
      for name, each in systems.items():
        started = time.thread_time()
        for _ in range(calls):
          each.session.run(None, feeds[name])
        if number:
          seconds[name].append((time.thread_time() - started) / (calls * size))
    for name, own in seconds.items():
      least = seconds[_NO_LATERALS]
      ratios = [one / other for one, other in zip(own, least, strict=True)]
      figures[name]['ms_per_image'][str(size)] = 1000 * statistics.median(own)
      figures[name]['times_no_laterals'][str(size)] = statistics.median(ratios)
  return figures


def _labels(data_dir: str) -> dict[str, dict[str, float]]:
  """Returns, by precision, top-1 of the bundled network, of its graphs, and equal labels."""
  opened = classifier.load_pretrained(_NETWORK)
  test = in_memory.load('cifar10', 'test', data_dir)
  seen = in_memory.load('cifar10', 'train', data_dir).images[:_RANGE_IMAGES]
  network, variables = opened.network, jax.device_get(opened.variables)
  source = source_lib.prepare(network, variables, seen)
  apply = jax.jit(network.apply)
  paths = [_open(graphs.path_graph(source, index)) for index in range(len(network.bits))]
  wanted: list[np.ndarray] = []
  found: list[np.ndarray] = []
  for start in range(0, len(test), _BATCH):
    fed: dict[str, Any] = {'images': test.images[start : start + _BATCH]}
    wanted.append(np.asarray(apply(variables, fed['images'])).argmax(axis=-1))
    logits: list[np.ndarray] = []
    for path in paths:
      fed |= _run(path, fed)
      logits.append(fed[graphs.LOGITS])
    found.append(np.stack(logits).argmax(axis=-1))
  own, exported = np.concatenate(wanted, axis=1), np.concatenate(found, axis=1)
  return {
    str(precision): {
      'network_top1': float(np.mean(one == test.labels)),
      'graphs_top1': float(np.mean(other == test.labels)),
      'equal_labels': float(np.mean(one == other)),
    }
    for precision, one, other in zip(network.bits, own, exported, strict=True)
  }


def _show(figures: dict[str, dict[str, dict[str, Any]]]) -> None:
  """Prints the times of every system as a table for each path."""
  for path, systems in figures.items():
    table = rich.table.Table(title=f'{path} of ResNet-20, ONNX Runtime, CPU, one thread')
    table.add_column('where paths meet')
    table.add_column('operations', justify='right')
    for size in _CALLS:
      table.add_column(f'batch {size}: ms', justify='right')
      table.add_column('times no laterals', justify='right')
    for name, each in systems.items():
      cells = [f'{each[key][str(size)]:.3f}' for size in _CALLS for key in _FIGURES]
      table.add_row(name, str(each['operations']), *cells)
    command.console().print(table)


if __name__ == '__main__':
  command.start(main)
