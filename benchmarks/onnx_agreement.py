"""Measures how far ONNX graphs decide as the network does: top-1 and equal labels on test images.

    python -m benchmarks.onnx_agreement --workdir=DIR [--data-dir=D] [--json=FILE]
        [--calibration-images=512]

The run's newest checkpoint is exported as `dpoq export --format=onnx` does it, with
ranges measured on training images. Network and graphs then predict every test image: at each
precision alone, and by the cascade at the run's operating point.
"""

import json
import pathlib
import tempfile
from typing import Any

from absl import flags, logging
import jax
import numpy as np
import rich.table

from benchmarks import command
from dpoq_jax.cli.flags import required_path
from dpoq_jax.data import in_memory
from dpoq_jax.inference import operating_point
from dpoq_jax.training import trained_network

_WORKDIR = flags.DEFINE_string('workdir', None, 'directory of a run with an operating point')
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'where its data set is, if it moved')
_JSON = flags.DEFINE_string('json', None, 'file for the figures')
_RANGE_IMAGES = flags.DEFINE_integer(
  'calibration_images', 512, 'training images that ranges are measured on'
)


def main(_: list[str]) -> None:
  """Exports the network, predicts by both, prints the table and writes the figures."""
  import onnxruntime

  from dpoq_jax.deploy.onnx import export, graph_network, source

  logging.set_verbosity(logging.ERROR)
  workdir = required_path(flags.FLAGS, 'workdir')
  run = trained_network.load(workdir).with_data_in(_DATA_DIR.value)
  point = operating_point.read(workdir)
  network = run.network
  test = in_memory.load(run.config.data.name, 'test', run.config.data.dir)
  logits = run.predict(test).logits
  dynamic = point.predict(logits)
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'export'
    export.write(
      path,
      source.prepare(
        network, jax.device_get(run.variables), run.training_images(_RANGE_IMAGES.value)
      ),
      class_names=run.facts.class_names,
      operating_points=(json.loads(point.to_json()),),
    )
    exported = graph_network.Network(path)
    systems = {
      str(precision): _compared(
        logits[index].argmax(axis=-1),
        exported.predict_at(test.images, precision).labels,
        test.labels,
      )
      for index, precision in enumerate(network.bits)
    }
    cascade = exported.predict(test.images)
    systems['cascade'] = {
      **_compared(dynamic.labels, cascade.labels, test.labels),
      'network_bits': float(np.array(point.bits)[dynamic.exits].mean()),
      'onnx_bits': float(cascade.precisions.mean()),
    }
  _show(systems)
  if _JSON.value:
    result = {
      'model': run.config.model.label,
      'dataset': run.config.data.name,
      'images': len(test),
      'calibration_images': _RANGE_IMAGES.value,
      'onnxruntime': onnxruntime.__version__,
      'jax': jax.__version__,
      'agreement': systems,
    }
    pathlib.Path(_JSON.value).write_text(json.dumps(result, indent=1) + '\n')


def _compared(wanted: np.ndarray, found: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
  """Returns the shares of images that the network, and the graphs, label rightly, and both equally.

  Args:
    wanted: [images], labels of the network.
    found: [images], labels of the graphs.
    labels: [images], labels of the data set.
  """
  return {
    'network_top1': float((wanted == labels).mean()),
    'onnx_top1': float((found == labels).mean()),
    'equal_labels': float((wanted == found).mean()),
  }


def _show(systems: dict[str, dict[str, Any]]) -> None:
  """Prints the shares of each precision and of the cascade as a table."""
  table = rich.table.Table(title='ONNX Runtime and the network')
  for column in ('bits', 'network top-1 %', 'ONNX top-1 %', 'equal labels %'):
    table.add_column(column, justify='right')
  for name, shares in systems.items():
    table.add_row(name, *(f'{100 * each:.2f}' for each in list(shares.values())[:3]))
  command.console().print(table)


if __name__ == '__main__':
  command.start(main)
