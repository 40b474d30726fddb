"""Shows what a folder of graphs holds, ONNX or StableHLO, as a table."""

import pathlib
from typing import Any, Literal

import rich.table

from dpoq_jax.deploy import graph_folder
from dpoq_jax.runtime import terminal

Kind = Literal['ONNX', 'StableHLO']

# What only manifests of this kind have, and what they are of.
_OF_KIND: dict[Kind, tuple[str, str]] = {
  'ONNX': ('ONNX graphs', 'calibration_images'),
  'StableHLO': ('StableHLO programs', 'platforms'),
}


def kind(folder: pathlib.Path) -> Kind | None:
  """Returns which kind of graphs a folder holds, by the names of its files; None for neither."""
  if any(folder.glob('path_*.onnx')):
    return 'ONNX'
  return 'StableHLO' if any(folder.glob('path_*.stablehlo')) else None


def read(folder: pathlib.Path, of_kind: Kind) -> dict[str, Any]:
  """Reads the manifest of a folder; see `graph_folder.read`."""
  return graph_folder.read(folder, *_OF_KIND[of_kind])


def table(manifest: dict[str, Any], of_kind: Kind) -> rich.table.Table:
  """Returns a table with a line per precision: its graphs, and what they take.

  Args:
    manifest: as `read` returns it.
    of_kind: the kind of its graphs.
  """
  source, points = manifest.get('source') or {}, len(manifest['operating_points'])
  shape = ' x '.join(map(str, manifest['image_shape']))
  title = f'{of_kind} graphs: {source.get("dataset", "a data set not noted")}'
  cascade = manifest.get('cascade')
  whole = f'; {cascade["file"]}, {cascade["bytes"]:,} B, is all of them in one' if cascade else ''
  result = rich.table.Table(
    title=terminal.one_line(f'{title}, step {source.get("step", "not noted")}'),
    caption=terminal.one_line(
      f'images {shape}, {len(manifest["class_names"])} classes, operating points: {points}; a path '
      f'takes what those below it hand up, a precision runs all paths up to it{whole}'
    ),
  )
  for column in ('bits', 'path', 'path, B', 'precision', 'precision, B'):
    result.add_column(column, justify='right')
  for path, precision in zip(manifest['paths'], manifest['precisions'], strict=True):
    files = (each for graph in (path, precision) for each in (graph['file'], f'{graph["bytes"]:,}'))
    result.add_row(str(path['precision']), *files)
  return result
