"""Measures what integer graphs gain on ONNX Runtime: float, int8, all precisions, the cascade.

    python -m benchmarks.onnx_runtime [--workdir=DIR | --pretrained=NAME] [--json=FILE]
        [--operating-point=FILE] [--threads=1,2] [--rounds=15]
    python -m benchmarks.onnx_runtime --bits=4,8 --going-on=0.27 [--threads=1,2] [--rounds=15]

All graphs run in turn, round after round, with every number of threads; figures are medians, and
are compared with fp32 on as many threads. Without a network an untrained ResNet-20 is timed, which
is as fast as a trained one. With a network the cascade is timed as well, at its operating point and
on test images: `cascade` by a graph for each path, `cascade.onnx` by one graph that stops by
itself, which takes images one by one. With --going-on it is timed of the untrained one, too, at
thresholds that send on this share of the images that reach each precision but the last.
"""

from collections.abc import Callable, Sequence
import functools
import json
import pathlib
import platform
import statistics
import tempfile
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags, logging
import jax
import numpy as np
import rich.table

from benchmarks import command, untrained
from dpoq_jax import classifier, models
from dpoq_jax.data import in_memory
from dpoq_jax.deploy.onnx import graphs as graphs_lib
from dpoq_jax.deploy.onnx import source as source_lib
from dpoq_jax.inference import operating_point
from dpoq_jax.network import onion_network
from dpoq_jax.training import trained_network

if TYPE_CHECKING:
  import onnxruntime

  from dpoq_jax.deploy.onnx import graph_network

_WORKDIR = flags.DEFINE_string('workdir', None, 'directory of a run with an operating point')
_PRETRAINED = flags.DEFINE_string('pretrained', None, 'a network that comes with the library')
_POINT = flags.DEFINE_string(
  'operating_point', None, 'file of another operating point than its own'
)
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'where its data set is, if it moved')
_UNTRAINED_BITS = flags.DEFINE_list('bits', ['2', '4', '8'], 'bit list of the untrained network')
_GOING_ON = flags.DEFINE_list(
  'going_on', [], 'shares, in [0, 1], that go on from each precision of the untrained network'
)
_JSON = flags.DEFINE_string('json', None, 'file for the figures')
_THREADS = flags.DEFINE_list('threads', ['1', '2'], 'threads of a graph, one number or several')
_ROUNDS = flags.DEFINE_integer('rounds', 15, 'rounds that are measured, after one that is not')

_BATCH_SIZES = (1, 64)
_IMAGES, _SINGLE_IMAGES = 256, 64
_RANGE_IMAGES = 512
_SINGLE_GRAPH = 'cascade.onnx'


def main(_: list[str]) -> None:
  """Times all graphs, prints the table and writes the figures."""
  import onnxruntime

  from dpoq_jax.deploy.onnx import export, graph_network, source

  logging.set_verbosity(logging.ERROR)
  threads = _thread_counts(_THREADS.value)
  timed = _timed()
  network = timed.network
  names = tuple(map(str, range(10)))
  individual = {
    'fp32': _individual(untrained.build(network.model, (32,), 32), timed.images),
    'int8': _individual(
      untrained.build(network.model, (8,), network.activation_widths[-1]), timed.images
    ),
  }
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'export'
    prepared = source.prepare(network, timed.variables, timed.seen)
    export.write(path, prepared, class_names=names, operating_points=timed.points)
    sides = {
      count: _Side(
        graph_network.Network(path, count),
        {name: graph_network.session(model, count) for name, model in individual.items()},
      )
      for count in threads
    }
    figures = {size: _measure(sides, timed.images, size) for size in _BATCH_SIZES}
  of_threads = {str(n): {str(size): each[n] for size, each in figures.items()} for n in threads}
  speedups = {
    'lowest_speedup_over_fp32': f'precision_{network.bits[0]}',
    'all_precisions_over_fp32': f'precision_{network.bits[-1]}',
    **{f'path_{k}_speedup_over_fp32': f'path_{b}' for k, b in enumerate(network.bits, start=1)},
    **(
      {'cascade_speedup_over_fp32': 'cascade', 'single_graph_speedup_over_fp32': _SINGLE_GRAPH}
      if timed.points
      else {}
    ),
  }
  result = {
    'machine': platform.processor() or platform.machine(),
    'threads': threads,
    'onnxruntime': onnxruntime.__version__,
    'trained': bool(_WORKDIR.value or _PRETRAINED.value),
    'bits': network.bits,
    'of_threads': of_threads,
    **{key: _speedup(of_threads, system) for key, system in speedups.items()},
  }
  _show(of_threads)
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(result, indent=1) + '\n')


class _Timed(NamedTuple):
  """Holds the network that is timed, and images.

  Attributes:
    network: the network.
    variables: its frozen variables.
    images: uint8 [examples, height, width, channels], which it is timed on.
    seen: images of the same shape, on which ranges are measured.
    points: its operating point as manifests have it, if it has one.
  """

  network: onion_network.Onion
  variables: Any
  images: np.ndarray
  seen: np.ndarray
  points: tuple[dict[str, Any], ...]


def _timed() -> _Timed:
  """Opens the network that flags name; by default an untrained one.

  Raises:
    ValueError: if two are named, one without an operating point, or flags are given that are not
      for what is named.
  """
  is_named = bool(_WORKDIR.value or _PRETRAINED.value)
  for name, is_given in (('going-on', _GOING_ON.value), ('bits', _UNTRAINED_BITS.present)):
    if is_named and is_given:
      raise ValueError(
        f'--{name} is for the untrained network: leave --workdir and --pretrained out.'
      )
  if not is_named and (_POINT.value or _DATA_DIR.value):
    raise ValueError(
      '--operating-point and --data-dir are for a network: give --workdir or --pretrained.'
    )
  given = operating_point.read(pathlib.Path(_POINT.value)) if _POINT.value else None
  if _WORKDIR.value and _PRETRAINED.value:
    raise ValueError('--workdir and --pretrained are both given: give one of them.')
  if _WORKDIR.value:
    run = trained_network.load(pathlib.Path(_WORKDIR.value)).with_data_in(_DATA_DIR.value)
    assert isinstance(run.network, onion_network.Onion)
    data = run.config.data
    images = in_memory.load(data.name, 'test', data.dir).images[:_IMAGES]
    point = given or operating_point.read(pathlib.Path(_WORKDIR.value))
    network, variables, seen = run.network, run.variables, run.training_images(_RANGE_IMAGES)
  elif _PRETRAINED.value:
    opened = classifier.load_pretrained(_PRETRAINED.value)
    point = given or opened.operating_point
    if point is None or point.data is None:
      raise ValueError(
        f'--pretrained={_PRETRAINED.value}: it has no operating point of a data set.'
      )
    images, seen = (
      in_memory.load(point.data.dataset, split, _DATA_DIR.value).images[:count]
      for split, count in (('test', _IMAGES), ('train', _RANGE_IMAGES))
    )
    network, variables = opened.network, opened.variables
  else:
    images = np.random.default_rng(0).integers(0, 256, (_IMAGES, 32, 32, 3), dtype=np.uint8)
    if not all(word.isascii() and word.isdigit() for word in _UNTRAINED_BITS.value):
      raise ValueError(f'--bits={",".join(_UNTRAINED_BITS.value)}: give whole numbers.')
    bits = tuple(map(int, _UNTRAINED_BITS.value))
    network = untrained.build(models.CifarResNet(depth=20), bits, 8)
    variables = untrained.variables(network, images)
    # Of those that are timed one by one, which is where a single graph matters.
    single = images[:_SINGLE_IMAGES]
    points = (_sending_on(network, variables, single),) if _GOING_ON.value else ()
    return _Timed(network, variables, images, images[:64], points)
  points = (json.loads(point.to_json()),)
  return _Timed(network, jax.device_get(variables), images, seen, points)


def _sending_on(network: onion_network.Onion, variables: Any, images: np.ndarray) -> dict[str, Any]:
  """Returns the operating point at which given shares of the images go on, as manifests have it.

  Raises:
    ValueError: if there is not a share for each precision but the highest.
  """
  shares = tuple(map(float, _GOING_ON.value))
  if len(shares) != len(network.bits) - 1 or not all(0 <= share <= 1 for share in shares):
    raise ValueError(
      f'--going-on={",".join(_GOING_ON.value)}: give {len(network.bits) - 1} shares, from 0 to 1.'
    )
  logits = np.asarray(jax.jit(network.apply)(variables, images))
  point, here = operating_point.static(network.bits, network.bits[-1]), np.ones(len(images), bool)
  thresholds = dict(point.thresholds)
  for index, share in enumerate(shares):
    confidence = point.probabilities(index, logits[index]).max(axis=-1)
    thresholds[network.bits[index]] = float(np.quantile(confidence[here], share))
    here &= confidence < thresholds[network.bits[index]]
  return json.loads(point.model_copy(update={'thresholds': thresholds}).to_json())


def _thread_counts(words: Sequence[str]) -> list[int]:
  """Returns the numbers of threads; refuses what is none."""
  if not words or not all(word.isascii() and word.isdigit() and int(word) for word in words):
    raise ValueError(f'--threads={",".join(words)}: give numbers from 1 up.')
  return sorted({int(word) for word in words})


def _individual(network: onion_network.Onion, images: np.ndarray) -> bytes:
  """Returns the graph of an individual network, untrained: weights do not change its speed."""
  source = source_lib.prepare(network, untrained.variables(network, images), images[:64])
  return graphs_lib.precision_graph(source, 0).SerializeToString()


class _Side(NamedTuple):
  """Holds what runs on one number of threads.

  Attributes:
    exported: the graphs of the network.
    individual: the graphs it is compared with, `fp32` and `int8`, by name.
  """

  exported: 'graph_network.Network'
  individual: 'dict[str, onnxruntime.InferenceSession]'

  def systems(self, batches: Sequence[np.ndarray]) -> dict[str, Callable[[], Any]]:
    """Returns what is timed by name, each a function that runs all batches."""
    exported, size = self.exported, len(batches[0])
    result: dict[str, Callable[[], Any]] = {
      name: functools.partial(_each, lambda batch, s=s: s.run(None, {'images': batch}), batches)
      for name, s in self.individual.items()
    }
    for precision in exported.bits:
      run = functools.partial(exported.predict_at, precision=precision, batch_size=size)
      result[f'precision_{precision}'] = functools.partial(_each, run, batches)
    fed = [{'images': batch} for batch in batches]
    for precision, graph in zip(exported.bits, exported.manifest['paths'], strict=True):
      run = functools.partial(exported.run_graph, graph)
      result[f'path_{precision}'] = functools.partial(_each, run, [dict(each) for each in fed])
      fed = [each | run(each) for each in fed]
    if exported.manifest['operating_points']:
      # All images in one call, so that those that do not leave can wait for a full batch.
      cascade = functools.partial(exported.predict, np.concatenate(batches), batch_size=size)
      result['cascade'] = functools.partial(cascade, single_graph=False)
      if size == 1:
        result[_SINGLE_GRAPH] = cascade
    return result


def _measure(sides: dict[int, _Side], images: np.ndarray, size: int) -> dict[int, dict[str, Any]]:
  """Times every system at one batch size.

  Args:
    sides: what runs, by its number of threads.
    images: uint8 [examples, height, width, channels].
    size: images in a batch.

  Returns:
    By the number of threads, `ms_per_image` and `speedup_over_fp32` of every system, `average_bits`
    of the cascade, and `ring_over_plain_chain`, the time of every path as a multiple of that of the
    int8 network.
  """
  # Single images take many calls, so fewer of them are timed.
  count = len(images) if size > 1 else _SINGLE_IMAGES
  batches = [images[i : i + size] for i in range(0, count, size)]
  systems = {
    (threads, name): run
    for threads, side in sides.items()
    for name, run in side.systems(batches).items()
  }
  seconds: dict[tuple[int, str], list[float]] = {key: [] for key in systems}
  for number in range(_ROUNDS.value + 1):
    for key, run in systems.items():
      started = time.perf_counter()
      run()
      if number:
        seconds[key].append(time.perf_counter() - started)
  figures: dict[int, dict[str, Any]] = {}
  for threads, side in sides.items():
    exported = side.exported
    medians = {name: statistics.median(each) for (n, name), each in seconds.items() if n == threads}
    average_bits = None
    if exported.manifest['operating_points']:
      average_bits = float(exported.predict(images[:count]).precisions.mean())
    figures[threads] = {
      'ms_per_image': {name: 1000 * each / count for name, each in medians.items()},
      'speedup_over_fp32': {name: medians['fp32'] / each for name, each in medians.items()},
      'average_bits': average_bits,
      'ring_over_plain_chain': {
        f'path_{precision}': medians[f'path_{precision}'] / medians['int8']
        for precision in exported.bits
      },
    }
  return figures


def _each(run: Callable[[Any], Any], batches: Sequence[Any]) -> None:
  """Runs a function on every batch."""
  for batch in batches:
    run(batch)


def _speedup(
  of_threads: dict[str, dict[str, dict[str, Any]]], system: str
) -> dict[str, dict[str, float]]:
  """Returns how many times as fast as fp32 a system is, by threads and batch size."""
  return {
    threads: {
      size: each['speedup_over_fp32'][system]
      for size, each in by_size.items()
      if system in each['speedup_over_fp32']
    }
    for threads, by_size in of_threads.items()
  }


def _show(of_threads: dict[str, dict[str, dict[str, Any]]]) -> None:
  """Prints the times of every system as a table for each number of threads."""
  for threads, by_size in of_threads.items():
    table = rich.table.Table(title=f'ONNX Runtime, CPU, threads: {threads}')
    table.add_column('graph')
    for size in by_size:
      table.add_column(f'batch {size}: ms per image', justify='right')
      table.add_column('times fp32', justify='right')
    systems = {name: None for each in by_size.values() for name in each['ms_per_image']}
    for name in systems:
      cells = [
        f'{each[key][name]:.3f}' if name in each[key] else ''
        for each in by_size.values()
        for key in ('ms_per_image', 'speedup_over_fp32')
      ]
      table.add_row(name, *cells)
    command.console().print(table)


if __name__ == '__main__':
  command.start(main)
