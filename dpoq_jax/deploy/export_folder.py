"""Writes folders of exported files, and the manifest that says what is in them."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import hashlib
import json
import pathlib
import shutil
from typing import Any

import numpy as np

from dpoq_jax.core.names import ONION
from dpoq_jax.deploy import graph_folder
from dpoq_jax.runtime.files import write_whole


def make_for_frozen(folder: pathlib.Path, variables: Mapping[str, Any]) -> None:
  """Makes a folder for the export of a frozen network.

  Args:
    folder: the folder; if it is there already, it must be empty.
    variables: variables of the network.

  Raises:
    FileExistsError: if there is something in the folder.
    ValueError: for variables that hold latents, or numbers that are not finite.
  """
  check_frozen(variables)
  make_empty(folder)


def check_frozen(variables: Mapping[str, Any]) -> None:
  """Refuses variables that cannot be exported.

  Raises:
    ValueError: for variables that hold latents, or numbers that are not finite.
  """
  if ONION not in variables:
    raise ValueError('these variables hold latents: freeze them first (Onion.freeze).')
  for name, leaf in flattened(variables):
    if not np.isfinite(leaf).all():
      raise ValueError(f'{name} is not finite: a network that diverged cannot be exported.')


def flattened(tree: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, np.ndarray]]:
  """Yields the leaves of nested mappings, in the order of their names joined by `/`."""
  for name in sorted(tree):
    if isinstance(tree[name], Mapping):
      yield from flattened(tree[name], f'{prefix}{name}/')
    else:
      yield prefix + name, np.asarray(tree[name])


@contextlib.contextmanager
def emptied_on_failure(folder: pathlib.Path) -> Iterator[None]:
  """Makes a folder to export to, and empties it again if the export fails.

  Raises:
    FileExistsError: if there is something in the folder.
  """
  was_there = folder.is_dir()
  make_empty(folder)
  try:
    yield
  except BaseException:
    for entry in folder.iterdir():
      if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
      else:
        entry.unlink()
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
  return {'precision': precision, **write_file(file, content), **known}


def write_file(file: pathlib.Path, content: bytes) -> dict[str, Any]:
  """Writes a file; returns its name, size and digest, by which its reader checks it."""
  file.write_bytes(content)
  return {
    'file': file.name,
    'bytes': len(content),
    'sha256': hashlib.sha256(content).hexdigest(),
  }


def write_manifest(
  folder: pathlib.Path,
  bits: Sequence[int],
  image_shape: Sequence[int],
  *,
  classes: int,
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
    classes: number of logits.
    class_names: a name for each class.
    operating_points: operating points for dynamic inference, `inference.OperatingPoint` as JSON.
    source: data set and step that the network comes from.
    **more: further fields: paths and precisions, and what only one kind of graphs has.

  Returns:
    The content of the manifest, without its digest.

  Raises:
    ValueError: for a manifest that `graph_folder.read` would refuse.
  """
  # Text is a sequence of names of one letter.
  if isinstance(class_names, str) or len(class_names) != classes:
    raise ValueError(f'class_names={class_names!r}: give {classes} names, one for each class.')
  manifest = {
    'format': graph_folder.FORMAT,
    'bits': list(bits),
    'class_names': list(class_names),
    'image_shape': list(image_shape),
    'input_range': [0, 255],
    'operating_points': [dict(point) for point in operating_points],
    'source': dict(source or {}),
    **more,
  }
  try:
    graph_folder.check(manifest)
  except ValueError as error:
    raise ValueError(f'{folder} cannot be written: {error}.') from None
  text = json.dumps({'sha256': graph_folder.digest(manifest), **manifest}, indent=1) + '\n'
  write_whole(folder / graph_folder.MANIFEST, text)
  return manifest


def make_empty(folder: pathlib.Path) -> None:
  """Makes a folder, unless an empty one is there.

  Raises:
    FileExistsError: if there is something in the folder.
  """
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise FileExistsError(f'{folder} is there already: give another folder.')
  folder.mkdir(parents=True, exist_ok=True)
