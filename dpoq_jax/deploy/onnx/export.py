"""Writes the folder of an ONNX export: graphs, manifest, and a `predict.py` that runs them.

`predict.py` needs NumPy and ONNX Runtime alone, nothing of this library.
"""

from collections.abc import Iterable, Mapping
import pathlib
import shutil
from typing import Any

import numpy as np
import onnx

from dpoq_jax.core.names import path_name
from dpoq_jax.deploy import export_folder, graph_folder
from dpoq_jax.deploy.onnx import graphs
from dpoq_jax.deploy.onnx import source as source_lib
from dpoq_jax.network import onion_network

_PROGRAMS = (pathlib.Path(__file__).with_name('predict.py'), pathlib.Path(graph_folder.__file__))


def write(
  folder: pathlib.Path,
  network: onion_network.Onion,
  variables: Mapping[str, Any],
  range_images: np.ndarray,
  **known: Any,
) -> dict[str, Any]:
  """Writes `path_B.onnx`, `precision_B.onnx`, `manifest.json` and the two files of `predict.py`.

  Args:
    folder: the folder, which is made; it must not hold anything.
    network: the network.
    variables: frozen variables, NumPy arrays.
    range_images: uint8 [examples, height, width, channels], on which ranges are measured.
    **known: what `export_folder.write_manifest` takes: class_names, operating_points, source.

  Returns:
    The manifest.

  Raises:
    FileExistsError: if there is something in the folder.
    ValueError: for variables that hold latents, or a network that cannot be exported.
  """
  export_folder.make_for_frozen(folder, variables)
  try:
    # A number that is lost here would be a wrong integer in a graph.
    with np.errstate(divide='raise', over='raise', invalid='raise'):
      source = source_lib.prepare(network, variables, range_images)
      paths = [
        _write_graph(folder / f'{path_name(bits)}.onnx', bits, graphs.path_graph(source, index))
        for index, bits in enumerate(network.bits)
      ]
      precisions = [
        _write_graph(folder / f'precision_{bits}.onnx', bits, graphs.precision_graph(source, index))
        for index, bits in enumerate(network.bits)
      ]
  except FloatingPointError as error:
    raise ValueError(f'the numbers of this network have no integers ({error}).') from None
  for program in _PROGRAMS:
    shutil.copyfile(program, folder / program.name)
  return export_folder.write_manifest(
    folder,
    network.bits,
    source.image_shape,
    classes=source.paths[0][-1].shape[-1],
    calibration_images=len(range_images),
    paths=paths,
    precisions=precisions,
    **known,
  )


def _write_graph(file: pathlib.Path, precision: int, model: onnx.ModelProto) -> dict[str, Any]:
  """Writes a graph; returns its entry in the manifest."""
  return export_folder.write_graph(
    file,
    precision,
    model.SerializeToString(deterministic=True),
    inputs=_names(model.graph.input),
    outputs=_names(model.graph.output),
  )


def _names(values: Iterable[onnx.ValueInfoProto]) -> list[str]:
  """Returns the names of inputs or outputs."""
  return [value.name for value in values]
