"""Writes the folder of an ONNX export: graphs, manifest, and a `predict.py` that runs them.

`predict.py` needs NumPy and ONNX Runtime alone, nothing of this library. For other tools there are
graphs of their own in `onnx`, and two files of JSON (`hub_layout`).
"""

from collections.abc import Iterable, Mapping, Sequence
import pathlib
import shutil
from typing import Any

import numpy as np
import onnx

from dpoq_jax.core.names import path_name
from dpoq_jax.data import decode, image_folder
from dpoq_jax.data import resize as resize_lib
from dpoq_jax.deploy import export_folder, graph_folder
from dpoq_jax.deploy.onnx import cascade_graph, graphs, hub_layout
from dpoq_jax.deploy.onnx import source as source_lib
from dpoq_jax.network import onion_network

_BESIDE = pathlib.Path(__file__)
# `predict.py`, and what it imports.
_PROGRAMS = (
  *(
    _BESIDE.with_name(f'{name}.py')
    for name in ('predict', 'graph_network', 'decision', 'image_files')
  ),
  *map(
    pathlib.Path,
    (graph_folder.__file__, decode.__file__, image_folder.__file__, resize_lib.__file__),
  ),
)


def write(
  folder: pathlib.Path,
  network: onion_network.Onion,
  variables: Mapping[str, Any],
  range_images: np.ndarray,
  *,
  class_names: Sequence[str],
  resize: int | None = None,
  operating_points: Sequence[Mapping[str, Any]] = (),
  **known: Any,
) -> dict[str, Any]:
  """Writes graphs, `manifest.json`, `predict.py` with its modules, and files for other tools.

  The graphs are `path_B.onnx`, `precision_B.onnx`, `cascade.onnx`, and in `onnx` those of
  precisions for other tools, that of the highest under two names.

  Args:
    folder: the folder, which is made; it must not hold anything.
    network: the network.
    variables: frozen variables, NumPy arrays.
    range_images: uint8 [examples, height, width, channels], on which ranges are measured.
    class_names: a name for each class.
    resize: shorter side to which files are resized before their centre is taken, pixels; None
      resizes them to the shape of `range_images`.
    operating_points: operating points, as manifests have them; the first is the default of
      `cascade.onnx`.
    **known: what `export_folder.write_manifest` takes: source.

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
      cascade = _write_graph(
        folder / f'{cascade_graph.NAME}.onnx',
        network.bits[-1],
        cascade_graph.cascade_graph(source, next(iter(operating_points), None)),
      )
      (folder / hub_layout.FOLDER).mkdir()
      names = [(k, hub_layout.file_name(bits)) for k, bits in enumerate(network.bits)]
      others = [
        _write_graph(
          folder / hub_layout.FOLDER / name,
          network.bits[index],
          graphs.pixel_values_graph(source, index),
        )
        for index, name in [*names, (len(names) - 1, hub_layout.HIGHEST)]
      ]
  except FloatingPointError as error:
    raise ValueError(f'the numbers of this network have no integers ({error}).') from None
  for program in _PROGRAMS:
    shutil.copyfile(program, folder / program.name)
  hub_layout.write(folder, source.image_shape, class_names, resize)
  return export_folder.write_manifest(
    folder,
    network.bits,
    source.image_shape,
    classes=source.paths[0][-1].shape[-1],
    calibration_images=len(range_images),
    paths=paths,
    precisions=precisions,
    cascade=cascade,
    operating_points=operating_points,
    # Their digests; nothing of this library reads these files.
    other_tools=[{**entry, 'file': f'{hub_layout.FOLDER}/{entry["file"]}'} for entry in others],
    class_names=class_names,
    resize=resize,
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
