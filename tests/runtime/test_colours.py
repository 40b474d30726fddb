"""Colours: none under `NO_COLOR`, on a terminal as in a pipe."""

import io

import pytest
import rich.table

from dpoq_jax.runtime.console import Console


def printed(*, terminal: bool) -> str:
  file = io.StringIO()
  table = rich.table.Table('bits', title='a title')
  table.add_row('2')
  Console(file=file, force_terminal=terminal or None).print(table, 'step 3 of 4')
  return file.getvalue()


def test_no_color_leaves_out_every_escape(monkeypatch: pytest.MonkeyPatch):
  for name in ('FORCE_COLOR', 'NO_COLOR', 'TERM'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('TERM', 'xterm-256color')
  assert '\x1b[' in printed(terminal=True)
  assert '\x1b[' not in printed(terminal=False)
  monkeypatch.setenv('NO_COLOR', '1')
  assert '\x1b[' not in printed(terminal=True)
