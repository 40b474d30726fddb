"""Prints lines and tables whose text is shown as it is: nothing in a file or a name is obeyed."""

import os
from typing import Any

import rich.console
import rich.text

from dpoq_jax.runtime import terminal


class Console(rich.console.Console):
  """Prints text without markup, emoji codes and terminal escapes, in tables and titles, too."""

  def __init__(self, **options: Any) -> None:
    """Takes the options of rich's console; `NO_COLOR` leaves out bold and italics, too."""
    if os.environ.get('NO_COLOR'):
      options = {**options, 'color_system': None}
    super().__init__(markup=False, emoji=False, **options)

  def render_str(self, text: str, **options: Any) -> rich.text.Text:
    """Returns text as rich prints it; every string that is printed goes through here."""
    # Line ends are those of messages: what comes from files has none in tables.
    lines = '\n'.join(map(terminal.one_line, text.split('\n')))
    shown = super().render_str(lines, **{**options, 'markup': False, 'emoji': False})
    # Where a table is too wide its cells are folded: cut short, a number is another one.
    shown.overflow = 'fold'
    return shown
