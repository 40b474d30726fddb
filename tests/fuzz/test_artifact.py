"""Artifacts that are damaged, or that lie: refused in one line, or the same network."""

import hashlib
import importlib
import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from dpoq_jax.deploy import graph_folder
from dpoq_jax.deploy.artifact import in_jax, rings
from dpoq_jax.deploy.artifact.manifest import ArtifactError
from tests.conftest import once
from tests.deploy.conftest import Frozen, frozen
from tests.fuzz import mutations


@pytest.fixture(scope='module')
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Frozen, dict[str, bytes]]:
  """Returns a network and the files of its artifact."""
  example = frozen((2, 4))

  def make(path: pathlib.Path) -> None:
    rings.write(path, example.variables, top1={2: 0.5, 4: 0.6}, **example.known)

  folder = once(tmp_path_factory, 'fuzzed_artifact', make)
  return example, {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def with_digest(text: str) -> str:
  """Returns a manifest with the digest that it should have; text that is none as it is."""
  try:
    content = json.loads(text)
    content.pop('sha256', None)
    return json.dumps({'sha256': graph_folder.digest(content), **content})
  except (ValueError, AttributeError):
    return text


def damaged(rng: np.random.Generator, files: dict[str, bytes]) -> tuple[dict[str, bytes], bool]:
  """Returns the files with one of them damaged, and whether the manifest was made to agree."""
  manifest, name = files['manifest.json'], str(rng.choice([f for f in files if 'ring' in f]))
  match rng.integers(6):
    case 0:
      return {**files, 'manifest.json': mutations.mutated_bytes(rng, manifest)}, False
    case 1:
      text = mutations.mutated_json(rng, manifest.decode())
      return {**files, 'manifest.json': text.encode()}, False
    case 2:
      return {**files, name: mutations.mutated_bytes(rng, files[name])}, False
    case 3:
      ring = mutations.mutated_bytes(rng, files[name])
      content = json.loads(manifest)
      (entry,) = (each for each in content['rings'] if each['file'] == name)
      entry.update(bytes=len(ring), sha256=hashlib.sha256(ring).hexdigest())
      text = with_digest(json.dumps(content))
      return {**files, 'manifest.json': text.encode(), name: ring}, True
    case _:
      text = with_digest(mutations.mutated_json(rng, manifest.decode()))
      return {**files, 'manifest.json': text.encode()}, True


@mutations.counts
def test_artifacts(count: int, written: Any, tmp_path: pathlib.Path, capsys):
  example, files = written
  inspect = importlib.import_module('dpoq_jax.inspect.__main__')
  expected, rng = jax.tree.leaves(example.variables), np.random.default_rng(7)
  refused: list[str] = []
  for number in range(count):
    changed, agrees = damaged(rng, files)
    for name, content in changed.items():
      (tmp_path / name).write_bytes(content)
    with mutations.no_hang():
      try:
        artifact = rings.load(tmp_path)
        inspect.main(None, str(tmp_path))
        shown = capsys.readouterr().out
        assert shown.replace('\n', '').isprintable(), number
        # Tracing a network takes a hundred times as long as all else.
        if agrees and number % 10 == 0:
          in_jax.network_of(artifact)
      except ArtifactError as error:
        refused.append(str(error))
        continue
    if not agrees:
      for a, b in zip(jax.tree.leaves(artifact.variables), expected, strict=True):
        np.testing.assert_array_equal(a, b, strict=True, err_msg=str(number))
  # Some change nothing that matters: an accuracy, a class name, a float.
  assert count / 2 < len(refused) < count
  assert all(len(message) < 3000 and len(message.splitlines()) == 1 for message in refused)
