"""Text of unknown origin on a console."""

import pytest
import rich.table

from dpoq_jax.runtime.console import Console

HOSTILE = '[/bold] [red]x[link=http://a]\x1b[2J\x9b31m\u202e\x07 :smile: \ud800'


@pytest.mark.parametrize('is_terminal', [True, False])
def test_text_is_shown_and_not_obeyed(is_terminal: bool, capsys):
  console = Console(force_terminal=is_terminal, color_system=None, width=200)
  table = rich.table.Table(HOSTILE, title=HOSTILE, caption=HOSTILE)
  table.add_row(HOSTILE)
  console.print(table)
  console.print(f'written to {HOSTILE}', soft_wrap=True)
  shown = capsys.readouterr().out
  literal = r'[/bold] [red]x[link=http://a]\x1b[2J\x9b31m\u202e\x07 :smile: \ud800'
  assert shown.count(literal) == 5
  assert all(
    c.isprintable() for c in shown.replace('\n', '').replace('\x1b[3m', '').replace('\x1b[0m', '')
  )


def test_no_figure_of_a_table_is_cut_short(capsys):
  table = rich.table.Table('parameters', 'top-1 %')
  table.add_row('1,234,567', '0.000295')
  Console(width=16).print(table)
  rows = [line.split('│') for line in capsys.readouterr().out.splitlines() if '│' in line]
  assert [''.join(row[column].strip() for row in rows) for column in (1, 2)] == [
    '1,234,567', '0.000295'
  ]  # fmt: skip


def test_lines_of_a_message_stay_lines(capsys):
  Console().print('one\ntwo')
  assert capsys.readouterr().out == 'one\ntwo\n'
