"""Manifests that are whole but not true."""

from collections.abc import Callable
import json
import pathlib
from typing import Any

from dpoq_jax.deploy import graph_folder


def rewritten(folder: pathlib.Path, change: Callable[[dict[str, Any]], Any]) -> None:
  """Changes the manifest of a folder, and its digest with it."""
  path = folder / graph_folder.MANIFEST
  content = json.loads(path.read_text())
  del content['sha256']
  change(content)
  path.write_text(json.dumps({'sha256': graph_folder.digest(content), **content}))
