"""Tests of `dpoq_jax.runtime.terminal`, and of the errors that are shown by it."""

import pathlib

import pytest

from dpoq_jax.cli import errors
from dpoq_jax.runtime import terminal


@pytest.mark.parametrize(
  ('text', 'shown'),
  [
    ('two\nlines\tand\r more ', 'two lines and more'),
    ('\x1b[2Jgone', r'\x1b[2Jgone'),
    ('a\x08\x7f\0', r'a\x08\x7f\x00'),
    ('gpj\u202e.exe', r'gpj\u202e.exe'),
    ('\udc80', r'\udc80'),
    ('Zürich 東京', 'Zürich 東京'),
    (pathlib.Path('x'), 'x'),
  ],
)
def test_text_is_one_printable_line(text, shown):
  assert terminal.one_line(text) == shown


def test_long_text_loses_its_middle():
  shown = terminal.one_line('begin ' + 'x' * 100_000 + ' end')
  assert shown.startswith('begin xx')
  assert shown.endswith('xx end')
  assert '99,110 characters left out' in shown
  assert len(shown) < 1000
  assert len(terminal.one_line('\x1b' * 100_000)) < 4500


def test_errors_and_warnings_are_shown_so(capsys):
  with pytest.raises(SystemExit) as ended, errors.user_errors():
    raise ValueError('there is no \x1b]0;title\x07' + 'y' * 10**6)
  assert ended.value.code == 2
  errors.warn('a\x9bb\nc')
  out, err = capsys.readouterr()
  assert out == ''
  first, second = err.splitlines()
  assert first.startswith(r'error: there is no \x1b]0;title\x07yy')
  assert len(first) < 1100
  assert second == r'warning: a\x9bb c'
