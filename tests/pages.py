"""Finds the documents, and the Python and the commands in them; runs the Python."""

import pathlib
import re
import shlex
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = ROOT / 'README.md'
ARCHITECTURE = ROOT / 'docs' / 'architecture.md'
COMMANDS = ROOT / 'docs' / 'commands.md'
METHOD = ROOT / 'docs' / 'method.md'
OWN_MODEL = ROOT / 'docs' / 'your_own_model.md'
QUICK_START = ROOT / 'docs' / 'quick_start.md'
PAGES = [
  README,
  ROOT / 'CONTRIBUTING.md',
  ROOT / 'notebooks' / 'README.md',
  *sorted((ROOT / 'docs').rglob('*.md')),
]
_BLOCK = re.compile(r'^```python\n(.*?)^```$', re.DOTALL | re.MULTILINE)
_SHELL = re.compile(r'^```sh\n(.*?)^```$', re.DOTALL | re.MULTILINE)


def blocks(page: pathlib.Path) -> list[str]:
  """The Python of a page, each piece moved down to its line, so that tracebacks point there."""
  text = page.read_text()
  return ['\n' * text.count('\n', 0, match.start(1)) + match[1] for match in _BLOCK.finditer(text)]


def run_blocks(page: pathlib.Path) -> dict[str, Any]:
  """Runs the Python of a page from top to bottom; returns the variables it leaves."""
  namespace: dict[str, Any] = {'__name__': page.stem}
  for block in blocks(page):
    exec(compile(block, str(page), 'exec'), namespace)
  return namespace


def shell_lines(page: pathlib.Path) -> list[list[str]]:
  """The words of every command of a page."""
  joined = (block.replace('\\\n', ' ') for block in _SHELL.findall(page.read_text()))
  lines = (line for block in joined for line in block.splitlines())
  return [words for line in lines if (words := shlex.split(line, comments=True))]
