"""Writes the folder of a page from an ONNX export: rings, runtime, test images, what they are.

The page itself is in `page/`, and is copied as it is; all that differs between networks is in
`network.json`. Whatever is large is compressed here, since plain servers compress nothing.
"""

from collections.abc import Mapping, Sequence
import gzip
import json
import pathlib
import shutil
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from dpoq_jax.deploy import export_folder, graph_folder
from dpoq_jax.deploy.web import runtime as runtime_lib
from dpoq_jax.runtime.files import write_whole

FILE = 'network.json'
"""Name of the file that describes the network to the page."""

_PAGE = pathlib.Path(__file__).with_name('page')
# The page looks like the report, so that is where most of its style is.
_REPORT_STYLE = pathlib.Path(__file__).parents[2] / 'reporting' / 'page.css'
_OF_A_POINT = ('thresholds', 'weights', 'temperatures', 'reported')


class Examples(NamedTuple):
  """Holds test images that come with a page.

  Attributes:
    images: uint8 [height, width, channels] each.
    labels: int [examples], the right classes.
    source: what they are, for readers of the page.
  """

  images: Sequence[np.ndarray]
  labels: np.ndarray
  source: str


def write(
  folder: pathlib.Path,
  exported: pathlib.Path,
  runtime: runtime_lib.Runtime,
  *,
  title: str,
  points: Sequence[Mapping[str, Any]],
  current: int,
  examples: Examples | None = None,
) -> dict[str, Any]:
  """Writes a page and all that it loads.

  Args:
    folder: the folder, which is made; what is in it stays.
    exported: folder of an ONNX export, whose path graphs are shown.
    runtime: what runs them in a browser.
    title: title of the page.
    points: operating points to choose from, `inference.OperatingPoint` as JSON, the cheapest first.
    current: index of the one that is chosen at first.
    examples: test images; without them readers bring their own.

  Returns:
    The content of `network.json`.

  Raises:
    OSError: if a file of the export cannot be read.
    ValueError: if it was altered, or if a point is not one of this network.
  """
  manifest = graph_folder.read(exported, 'ONNX graphs', 'calibration_images')
  for point in points:
    graph_folder.check_point(point, manifest['bits'])
  if not 0 <= current < len(points):
    raise ValueError(f'current={current}: there are {len(points)} operating points.')
  shutil.copytree(_PAGE, folder, dirs_exist_ok=True)
  shutil.copyfile(_REPORT_STYLE, folder / 'report.css')
  (folder / 'runtime').mkdir()
  # A map of its source, which is not here, would be looked for by tools of developers.
  script = runtime.script.partition(b'//# sourceMappingURL')[0]
  (folder / 'runtime' / 'onnxruntime.js').write_bytes(script)
  content = {
    'title': title,
    **{field: manifest[field] for field in ('bits', 'class_names', 'image_shape')},
    'resize': manifest.get('resize'),
    'runtime': {
      'name': f'{runtime_lib.NAME} {runtime_lib.VERSION}',
      **_write_compressed(folder, 'runtime/onnxruntime.gzip', runtime.program),
    },
    'rings': [
      {
        'precision': graph['precision'],
        **_write_compressed(
          folder, f'path_{graph["precision"]}.gzip', graph_folder.read_file(exported, graph)
        ),
      }
      for graph in manifest['paths']
    ],
    'points': [{field: point.get(field) for field in _OF_A_POINT} for point in points],
    'current': current,
    'images': [] if examples is None else _write_images(folder, examples),
    'source': '' if examples is None else examples.source,
  }
  write_whole(folder / FILE, json.dumps(content, indent=1) + '\n')
  return content


def _write_compressed(folder: pathlib.Path, name: str, content: bytes) -> dict[str, Any]:
  """Writes a file that the page unpacks; returns what the page checks it by."""
  # Servers that know `.gz` unpack it themselves, some of them.
  compressed = gzip.compress(content, compresslevel=9, mtime=0)
  entry = export_folder.write_file(folder / name, compressed)
  return {**entry, 'file': name}


def _write_images(folder: pathlib.Path, examples: Examples) -> list[dict[str, Any]]:
  """Writes images as PNG, which loses nothing; returns what the page shows of them."""
  (folder / 'images').mkdir()
  entries: list[dict[str, Any]] = []
  for number, (image, label) in enumerate(zip(examples.images, examples.labels, strict=True)):
    name = f'images/{number:03}.png'
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(folder / name)
    entries.append({'file': name, 'label': int(label)})
  return entries
