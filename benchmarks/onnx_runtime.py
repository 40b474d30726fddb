"""Measures what integer graphs gain on ONNX Runtime: float, int8, all precisions, the cascade.

    python -m benchmarks.onnx_runtime [--workdir=DIR] [--json=FILE] [--threads=2] [--rounds=15]

All graphs run in turn, round after round; figures are medians. Without a run an untrained ResNet-20
is timed, which is as fast as a trained one. With a run the cascade is timed as well, at the run's
operating point and on its test images.
"""

from collections.abc import Callable, Sequence
import functools
import json
import pathlib
import platform
import statistics
import tempfile
import time
from typing import TYPE_CHECKING, Any

from absl import flags, logging
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import rich.table

from benchmarks import command
from dpoq_jax import models
from dpoq_jax.core.spec import LayerOptions
from dpoq_jax.data import in_memory
from dpoq_jax.deploy.onnx import graphs as graphs_lib
from dpoq_jax.deploy.onnx import source as source_lib
from dpoq_jax.inference import operating_point
from dpoq_jax.network import onion_network
from dpoq_jax.runtime import compiler
from dpoq_jax.training import trained_network

if TYPE_CHECKING:
  import onnxruntime

  from dpoq_jax.deploy.onnx import graph_network

_WORKDIR = flags.DEFINE_string('workdir', None, 'directory of a run with an operating point')
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'where its data set is, if it moved')
_JSON = flags.DEFINE_string('json', None, 'file for the figures')
_THREADS = flags.DEFINE_integer('threads', 2, 'threads of a graph')
_ROUNDS = flags.DEFINE_integer('rounds', 15, 'rounds that are measured, after one that is not')

_BITS = (2, 4, 8)
_BATCH_SIZES = (1, 64)
_IMAGES = 256


def main(_: list[str]) -> None:
  """Times all graphs, prints the table and writes the figures."""
  import onnxruntime

  from dpoq_jax.deploy.onnx import export, graph_network

  logging.set_verbosity(logging.ERROR)
  if _WORKDIR.value:
    run = trained_network.load(pathlib.Path(_WORKDIR.value)).with_data_in(_DATA_DIR.value)
    assert isinstance(run.network, onion_network.Onion)
    network, variables = run.network, jax.device_get(run.variables)
    data = run.config.data
    images = in_memory.load(data.name, 'test', data.dir).images[:_IMAGES]
    seen = run.training_images(512)
    point = operating_point.read(pathlib.Path(_WORKDIR.value))
    points = (json.loads(point.to_json()),)
  else:
    images = np.random.default_rng(0).integers(0, 256, (_IMAGES, 32, 32, 3), dtype=np.uint8)
    network = _network(models.CifarResNet(depth=20), _BITS, 8)
    seen, variables, points = images[:64], _untrained(network, images), ()
  names = tuple(map(str, range(10)))
  graphs = {
    'fp32': _individual(_network(network.model, (32,), 32), images),
    'int8': _individual(_network(network.model, (8,), network.activation_widths[-1]), images),
  }
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'export'
    export.write(path, network, variables, seen, class_names=names, operating_points=points)
    exported = graph_network.Network(path, _THREADS.value)
    figures = {size: _measure(exported, graphs, images, size) for size in _BATCH_SIZES}
  result = {
    'machine': platform.processor() or platform.machine(),
    'threads': _THREADS.value,
    'onnxruntime': onnxruntime.__version__,
    'trained': bool(_WORKDIR.value),
    'bits': network.bits,
    'batches': figures,
    'lowest_speedup_over_fp32': _speedup(figures, f'precision_{network.bits[0]}'),
    **{
      f'path_{k}_speedup_over_fp32': _speedup(figures, f'path_{bits}')
      for k, bits in enumerate(network.bits, start=1)
    },
    **({'cascade_speedup_over_fp32': _speedup(figures, 'cascade')} if points else {}),
  }
  _show(figures)
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(result, indent=1) + '\n')


def _network(model: nn.Module, bits: tuple[int, ...], activation_bits: int) -> onion_network.Onion:
  """Returns a network whose paths read what lower ones hand up, though it is not trained."""
  return onion_network.Onion(model, bits, activation_bits, options=LayerOptions(shift_init=0.3))


def _untrained(network: onion_network.Onion, images: np.ndarray) -> dict[str, Any]:
  """Returns frozen variables of a network that is not trained, with statistics of the images."""
  jit = functools.partial(jax.jit, compiler_options=compiler.once_options())
  pixels = jnp.asarray(images[:16])
  variables = jit(network.init)(jax.random.key(0), pixels)
  update = jit(lambda variables: network.apply_and_update(variables, pixels)[1])
  return jax.device_get(network.freeze(variables | update(variables)))


def _individual(network: onion_network.Onion, images: np.ndarray) -> 'onnxruntime.InferenceSession':
  """Opens the graph of an individual network, untrained, since weights do not change its speed."""
  from dpoq_jax.deploy.onnx import graph_network

  source = source_lib.prepare(network, _untrained(network, images), images[:64])
  model = graphs_lib.precision_graph(source, 0).SerializeToString()
  return graph_network.session(model, _THREADS.value)


def _measure(
  exported: 'graph_network.Network',
  graphs: 'dict[str, onnxruntime.InferenceSession]',
  images: np.ndarray,
  size: int,
) -> dict[str, Any]:
  """Times every system at one batch size.

  Args:
    exported: the graphs of the network.
    graphs: the graphs it is compared with, `fp32` and `int8`, by name.
    images: uint8 [examples, height, width, channels].
    size: images in a batch.

  Returns:
    `ms_per_image`, `speedup_over_fp32` of every system, `average_bits` of the cascade, and
    `ring_over_plain_chain`, the time of every path as a multiple of that of the int8 network.
  """
  # Single images take many calls, so fewer of them are timed.
  count = len(images) if size > 1 else 32
  batches = [images[i : i + size] for i in range(0, count, size)]
  systems: dict[str, Any] = {
    name: functools.partial(_each, lambda batch, s=s: s.run(None, {'images': batch}), batches)
    for name, s in graphs.items()
  }
  for precision in exported.bits:
    run = functools.partial(exported.predict_at, precision=precision, batch_size=size)
    systems[f'precision_{precision}'] = functools.partial(_each, run, batches)
  fed = [{'images': batch} for batch in batches]
  for precision, graph in zip(exported.bits, exported.manifest['paths'], strict=True):
    run = functools.partial(exported.run_graph, graph)
    systems[f'path_{precision}'] = functools.partial(_each, run, [dict(each) for each in fed])
    fed = [each | run(each) for each in fed]
  average_bits = None
  if exported.manifest['operating_points']:
    # All images in one call, so that those that do not leave can wait for a full batch.
    whole = np.concatenate(batches)
    average_bits = float(exported.predict(whole).precisions.mean())
    systems['cascade'] = functools.partial(exported.predict, whole, batch_size=size)
    if size == 1:
      systems['cascade'] = functools.partial(_each, exported.predict, batches)
  seconds: dict[str, list[float]] = {name: [] for name in systems}
  for number in range(_ROUNDS.value + 1):
    for name, run in systems.items():
      started = time.perf_counter()
      run()
      if number:
        seconds[name].append(time.perf_counter() - started)
  medians = {name: statistics.median(each) for name, each in seconds.items()}
  return {
    'ms_per_image': {name: 1000 * each / count for name, each in medians.items()},
    'speedup_over_fp32': {name: medians['fp32'] / each for name, each in medians.items()},
    'average_bits': average_bits,
    'ring_over_plain_chain': {
      f'path_{precision}': medians[f'path_{precision}'] / medians['int8']
      for precision in exported.bits
    },
  }


def _each(run: Callable[[Any], Any], batches: Sequence[Any]) -> None:
  """Runs a function on every batch."""
  for batch in batches:
    run(batch)


def _speedup(figures: dict[int, dict[str, Any]], system: str) -> dict[str, float]:
  """Returns how many times as fast as fp32 a system is, by batch size."""
  return {str(size): each['speedup_over_fp32'][system] for size, each in figures.items()}


def _show(figures: dict[int, dict[str, Any]]) -> None:
  """Prints the times of every system as a table."""
  table = rich.table.Table(title='ONNX Runtime, CPU')
  table.add_column('graph')
  for size in figures:
    table.add_column(f'batch {size}: ms per image', justify='right')
    table.add_column('times fp32', justify='right')
  for name in next(iter(figures.values()))['ms_per_image']:
    cells = [
      f'{each[key][name]:.3f}'
      for each in figures.values()
      for key in ('ms_per_image', 'speedup_over_fp32')
    ]
    table.add_row(name, *cells)
  command.console().print(table)


if __name__ == '__main__':
  command.start(main)
