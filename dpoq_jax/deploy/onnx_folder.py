"""The folder of an ONNX export: graphs, manifest, and a `predict.py` that needs nothing of ours."""

from collections.abc import Iterator, Mapping, Sequence
import hashlib
import json
import pathlib
import shutil
from typing import Any

import numpy as np
import onnx

from dpoq_jax import network
from dpoq_jax.deploy import onnx_graphs
from dpoq_jax.workdir import write_whole

FORMAT = 1
_TEMPLATE = pathlib.Path(__file__).with_name('onnx_predict.py')


def write(
  folder: pathlib.Path,
  net: network.Onion,
  variables: Mapping[str, Any],
  calibration: np.ndarray,
  *,
  class_names: Sequence[str],
  operating_points: Sequence[Mapping[str, Any]] = (),
  source: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Writes `path_B.onnx`, `precision_B.onnx`, `predict.py` and `manifest.json`.

  Args:
    folder: made; must not hold anything.
    net: the network.
    variables: frozen, NumPy arrays.
    calibration: uint8 [examples, height, width, channels], on which scales are chosen.
    class_names: one per class.
    operating_points: for dynamic inference; `inference.OperatingPoint` as JSON.
    source: data set and step, for the record.

  Returns:
    The manifest.

  Raises:
    FileExistsError: if there is something in the folder.
    ValueError: for a network that cannot be exported.
  """
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise FileExistsError(f'{folder} is there already: give another folder.')
  prepared = onnx_graphs.prepare(net, variables, calibration)
  folder.mkdir(parents=True, exist_ok=True)

  def written(kind: str) -> Iterator[dict[str, Any]]:
    make = {'path': onnx_graphs.path_graph, 'precision': onnx_graphs.precision_graph}[kind]
    for index, precision in enumerate(net.bits):
      model = make(prepared, index)
      content = model.SerializeToString(deterministic=True)
      path = folder / f'{kind}_{precision}.onnx'
      path.write_bytes(content)
      yield {
        'precision': precision,
        'file': path.name,
        'bytes': len(content),
        'sha256': hashlib.sha256(content).hexdigest(),
        'inputs': _names(model.graph.input),
        'outputs': _names(model.graph.output),
      }

  manifest = {
    'format': FORMAT,
    'bits': list(net.bits),
    'class_names': list(class_names),
    'image_shape': list(prepared.image_shape),
    'input_range': [0, 255],
    'calibration_images': len(calibration),
    'paths': list(written('path')),
    'precisions': list(written('precision')),
    'operating_points': [dict(point) for point in operating_points],
    'source': dict(source or {}),
  }
  shutil.copyfile(_TEMPLATE, folder / 'predict.py')
  # Last: a folder without it is no export.
  write_whole(folder / 'manifest.json', json.dumps(manifest, indent=1) + '\n')
  return manifest


def _names(values: Sequence[onnx.ValueInfoProto]) -> list[str]:
  return [value.name for value in values]
