"""The folder of an ONNX export: graphs, manifest, and a `predict.py` that needs nothing of ours."""

from collections.abc import Iterator, Mapping, Sequence
import pathlib
import shutil
from typing import Any

import numpy as np
import onnx

from dpoq_jax.deploy import export_folder as folder_lib
from dpoq_jax.deploy.onnx import graphs as graphs_lib
from dpoq_jax.network import onion_network

FORMAT = 1
_TEMPLATE = pathlib.Path(__file__).with_name('predict.py')


def write(
  folder: pathlib.Path,
  network: onion_network.Onion,
  variables: Mapping[str, Any],
  calibration: np.ndarray,
  **known: Any,
) -> dict[str, Any]:
  """Writes `path_B.onnx`, `precision_B.onnx`, `predict.py` and `manifest.json`.

  Args:
    folder: made; must not hold anything.
    network: the network.
    variables: frozen, NumPy arrays.
    calibration: uint8 [examples, height, width, channels], on which scales are chosen.
    **known: of `folder.write_manifest`: class_names, operating_points, source.

  Returns:
    The manifest.

  Raises:
    FileExistsError: if there is something in the folder.
    ValueError: for a network that cannot be exported.
  """
  folder_lib.make_empty(folder)
  prepared = graphs_lib.prepare(network, variables, calibration)

  def written(kind: str) -> Iterator[dict[str, Any]]:
    make = {'path': graphs_lib.path_graph, 'precision': graphs_lib.precision_graph}[kind]
    for index, precision in enumerate(network.bits):
      model = make(prepared, index)
      yield folder_lib.write_graph(
        folder / f'{kind}_{precision}.onnx',
        precision,
        model.SerializeToString(deterministic=True),
        inputs=_names(model.graph.input),
        outputs=_names(model.graph.output),
      )

  graphs = {'paths': list(written('path')), 'precisions': list(written('precision'))}
  shutil.copyfile(_TEMPLATE, folder / 'predict.py')
  return folder_lib.write_manifest(
    folder,
    network.bits,
    prepared.image_shape,
    format=FORMAT,
    calibration_images=len(calibration),
    **graphs,
    **known,
  )


def _names(values: Sequence[onnx.ValueInfoProto]) -> list[str]:
  return [value.name for value in values]
