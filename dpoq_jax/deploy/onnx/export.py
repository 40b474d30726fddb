"""Writes the folder of an ONNX export: graphs, manifest, and a `predict.py` that runs them.

`predict.py` needs NumPy and ONNX Runtime alone, nothing of this library. For other tools there are
graphs of their own in `onnx`, and two files of JSON (`hub_layout`).
"""

from collections.abc import Iterable, Mapping, Sequence
import pathlib
import shutil
from typing import Any

import onnx

from dpoq_jax.core.names import path_name
from dpoq_jax.data import decode, image_folder
from dpoq_jax.data import resize as resize_lib
from dpoq_jax.deploy import export_folder, graph_folder
from dpoq_jax.deploy.onnx import cascade_graph, graphs, hub_layout
from dpoq_jax.deploy.onnx import source as source_lib

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
  prepared: source_lib.Source,
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
    prepared: what the graphs are made from, of `source.prepare`.
    class_names: a name for each class.
    resize: shorter side to which files are resized before their centre is taken, pixels; None
      resizes them to the shape of the network's images.
    operating_points: operating points, as manifests have them; the first is the default of
      `cascade.onnx`.
    **known: what else `export_folder.write_manifest` takes: source.

  Returns:
    The manifest.

  Raises:
    FileExistsError: if there is something in the folder.
    ValueError: for a network whose numbers have no integers.
  """
  export_folder.make_empty(folder)
  all_bits = prepared.network.bits
  with source_lib.refusing_lost_numbers():
    paths = [
      _write_graph(folder / f'{path_name(bits)}.onnx', bits, graphs.path_graph(prepared, index))
      for index, bits in enumerate(all_bits)
    ]
    precisions = [
      _write_graph(folder / f'precision_{bits}.onnx', bits, graphs.precision_graph(prepared, index))
      for index, bits in enumerate(all_bits)
    ]
    cascade = _write_graph(
      folder / f'{cascade_graph.NAME}.onnx',
      all_bits[-1],
      cascade_graph.cascade_graph(prepared, next(iter(operating_points), None)),
    )
    (folder / hub_layout.FOLDER).mkdir()
    names = [(k, hub_layout.file_name(bits)) for k, bits in enumerate(all_bits)]
    others = [
      _write_graph(
        folder / hub_layout.FOLDER / name,
        all_bits[index],
        graphs.pixel_values_graph(prepared, index),
      )
      for index, name in [*names, (len(names) - 1, hub_layout.HIGHEST)]
    ]
  for program in _PROGRAMS:
    shutil.copyfile(program, folder / program.name)
  hub_layout.write(folder, prepared.image_shape, class_names, resize)
  return export_folder.write_manifest(
    folder,
    all_bits,
    prepared.image_shape,
    classes=prepared.paths[0][-1].shape[-1],
    calibration_images=prepared.range_images,
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
