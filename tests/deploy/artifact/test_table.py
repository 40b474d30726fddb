"""The table of an artifact."""

import pytest

from dpoq_jax import pretrained
from dpoq_jax.deploy.artifact import manifest, table
from dpoq_jax.runtime.console import Console


@pytest.mark.parametrize('name', pretrained.names())
def test_80_columns_are_enough(name: str, capsys: pytest.CaptureFixture[str]):
  found = manifest.read(pretrained.folder(name))
  Console(width=80).print(table.table(found))
  shown = capsys.readouterr().out
  # Nothing is folded: a line for each ring, and no part of a word in the heads.
  assert shown.count('\n│') == len(found.rings)
  assert {'params', 'BitOPs,', 'laterals,'} <= set(shown.split())
