"""Folders that exports write: graphs, and a manifest that says what they are."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import hashlib
import json
import pathlib
from typing import Any

from dpoq_jax.runtime.files import write_whole

MANIFEST = 'manifest.json'


def make_empty(folder: pathlib.Path) -> None:
  """Makes a folder to write an export to.

  Raises:
    FileExistsError: if there is something in it.
  """
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise FileExistsError(f'{folder} is there already: give another folder.')
  folder.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def emptied_on_failure(folder: pathlib.Path) -> Iterator[None]:
  """Makes a folder to write an export to; what fails in it leaves no half of one behind.

  Raises:
    FileExistsError: if there is something in it.
  """
  was_there = folder.is_dir()
  make_empty(folder)
  try:
    yield
  except BaseException:
    for file in folder.iterdir():
      file.unlink()
    if not was_there:
      folder.rmdir()
    raise


def write_graph(path: pathlib.Path, precision: int, content: bytes, **known: Any) -> dict[str, Any]:
  """Writes a graph; returns its entry in the manifest, `known` with it."""
  path.write_bytes(content)
  return {
    'precision': precision,
    'file': path.name,
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
  """Writes `manifest.json`, last of all: a folder without it is no export.

  Args:
    folder: with the graphs.
    bits: the bit list.
    image_shape: height, width, channels of the input, uint8.
    class_names: one per class.
    operating_points: for dynamic inference; `inference.OperatingPoint` as JSON.
    source: data set and step, for the record.
    **more: what else it says: format, graphs.

  Returns:
    What it says.
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
