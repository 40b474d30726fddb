"""Starts any command of the library by its name: `dpoq train` is `python -m dpoq_jax.train`."""

import ast
from collections.abc import Mapping
import importlib.util
import pathlib
import runpy
import sys

import dpoq_jax
from dpoq_jax.cli.errors import fail

# In the order in which one comes to need them.
_COMMANDS = (
  'prepare',
  'train',
  'evaluate',
  'calibrate',
  'predict',
  'report',
  'export',
  'inspect',
  'reproduce',
)

_HELP = """\
Trains one network, ships one file, runs it at 2, 4, 8 or 16 bits.

usage: dpoq COMMAND [--flag=VALUE ...]
       dpoq COMMAND --help
       dpoq --version

{commands}

Start with:

    dpoq train --workdir=runs/digits            # embedded data, two minutes on two cores
    dpoq calibrate --workdir=runs/digits --max-accuracy-drop=0.01
"""


def main() -> None:
  """Runs the command that the first word names, with the words after it."""
  name, *words = sys.argv[1:] or ['--help']
  if name in ('--help', '-h', '-help', 'help'):
    print(_HELP.format(commands=_listed(_summaries())), end='')
  elif name == '--version':
    print(f'dpoq_jax {dpoq_jax.__version__}')
  elif name in _COMMANDS:
    sys.argv = [f'dpoq {name}', *words]
    # As `python -m` does, so that both are the same by construction.
    runpy.run_module(_module(name), run_name='__main__', alter_sys=True)
  else:
    # Imported here, with all of the configs' schema: the list of commands is to be there at once.
    from dpoq_jax.config import names

    fail(f'{name}: there is no such command; {names.hint(name, _COMMANDS)}')


def _module(name: str) -> str:
  """Returns the module of a command."""
  return f'{dpoq_jax.__name__}.{name}'


def _summaries() -> dict[str, str]:
  """Returns the first line of the docstring of every command, which is read, not imported."""
  found: dict[str, str] = {}
  for name in _COMMANDS:
    spec = importlib.util.find_spec(_module(name))
    assert spec
    folders = spec.submodule_search_locations
    path = pathlib.Path(folders[0], '__main__.py') if folders else pathlib.Path(spec.origin or '')
    found[name] = (ast.get_docstring(ast.parse(path.read_text('utf-8'))) or '').partition('\n')[0]
  return found


def _listed(lines: Mapping[str, str]) -> str:
  """Returns names and what they are, in two columns."""
  return '\n'.join(f'  {name:10} {line}' for name, line in lines.items())


if __name__ == '__main__':
  main()
