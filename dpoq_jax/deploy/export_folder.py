"""Writes folders of exported files, and the manifest that says what is in them."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import hashlib
import json
import pathlib
from typing import Any

from dpoq_jax.core.names import ONION
from dpoq_jax.runtime.files import write_whole

MANIFEST = 'manifest.json'


def make_for_frozen(folder: pathlib.Path, variables: Mapping[str, Any]) -> None:
  """Makes a folder for the export of a frozen network.

  Args:
    folder: the folder; if it is there already, it must be empty.
    variables: variables of the network.

  Raises:
    FileExistsError: if there is something in the folder.
    ValueError: for variables that hold latents.
  """
  if ONION not in variables:
    raise ValueError('these variables hold latents: freeze them first (Onion.freeze).')
  _make_empty(folder)


@contextlib.contextmanager
def emptied_on_failure(folder: pathlib.Path) -> Iterator[None]:
  """Makes a folder to export to, and empties it again if the export fails.

  Raises:
    FileExistsError: if there is something in the folder.
  """
  was_there = folder.is_dir()
  _make_empty(folder)
  try:
    yield
  except BaseException:
    for file in folder.iterdir():
      file.unlink()
    if not was_there:
      folder.rmdir()
    raise


def write_graph(file: pathlib.Path, precision: int, content: bytes, **known: Any) -> dict[str, Any]:
  """Writes the file of a graph; returns its entry in the manifest.

  Args:
    file: the file.
    precision: bits of the precision whose path or network the graph is.
    content: what the file is to hold.
    **known: further fields of the entry.
  """
  file.write_bytes(content)
  return {
    'precision': precision,
    'file': file.name,
    'bytes': len(content),
    'sha256': hashlib.sha256(content).hexdigest(),
    **known,
  }


def write_manifest(
  folder: pathlib.Path,
  bits: Sequence[int],
  image_shape: Sequence[int],
  *,
  class_names: Sequence[str],
  operating_points: Sequence[Mapping[str, Any]] = (),
  source: Mapping[str, Any] | None = None,
  **more: Any,
) -> dict[str, Any]:
  """Writes `manifest.json`, which has to be the last file: a folder without it is no export.

  Args:
    folder: the folder with the graphs.
    bits: the bit list.
    image_shape: (height, width, channels) of the input, uint8.
    class_names: a name for each class.
    operating_points: operating points for dynamic inference, `inference.OperatingPoint` as JSON.
    source: data set and step that the network comes from.
    **more: further fields: format, graphs.

  Returns:
    The content of the manifest.
  """
  manifest = {
    'bits': list(bits),
    'class_names': list(class_names),
    'image_shape': list(image_shape),
    'input_range': [0, 255],
    'operating_points': [dict(point) for point in operating_points],
    'source': dict(source or {}),
    **more,
  }
  write_whole(folder / MANIFEST, json.dumps(manifest, indent=1) + '\n')
  return manifest


def _make_empty(folder: pathlib.Path) -> None:
  """Makes a folder; refuses one that is not empty."""
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise FileExistsError(f'{folder} is there already: give another folder.')
  folder.mkdir(parents=True, exist_ok=True)
