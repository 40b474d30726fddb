"""Keeps notebooks and their scripts the same, runs them, and makes pages of them for the site.

    python docs/scripts/notebooks.py sync
    python docs/scripts/notebooks.py run [--short] [NAME...]

`sync` writes each notebook in notebooks/ from its script, with the badge and the address to install
from that `url` in setup.cfg gives, if it is set. `run` executes notebooks, in a folder that is then
removed, and keeps copies with outputs in build/notebooks/; a site that is built afterwards shows
them. `--short` runs their short forms, of a minute each.
"""

import argparse
from collections.abc import Mapping, Sequence
import configparser
import os
import pathlib
import re
import tempfile
from typing import Any

import nbformat

_ROOT = pathlib.Path(__file__).parents[2]
FOLDER = _ROOT / 'notebooks'
# In the order in which they are read.
NAMES = ('onion_in_ten_minutes', 'cifar10_on_a_gpu', 'your_own_images', 'deploy')
SHORT = 'DPOQ_SHORT'
# Names another folder of executed copies.
EXECUTED = 'EXECUTED_NOTEBOOKS'

_BADGE = """\
# [![Open in Colab][badge]][colab]
#
# [badge]: https://colab.research.google.com/assets/colab-badge.svg
# [colab]: https://colab.research.google.com/{repository}/blob/main/notebooks/{name}.ipynb
#
"""
_ANY_BADGE = re.compile(r'# \[!\[Open in Colab.*?^# \[colab\]: .*?\n#\n', re.DOTALL | re.MULTILINE)
_SOURCE = re.compile(r"^SOURCE = '.*'$", re.MULTILINE)
_NOTES = {
  None: 'Outputs are not shown: none were made when this site was built.',
  True: f'Outputs are of the short form (`{SHORT}=1`): that it runs, not what it reaches.',
  False: 'Outputs are of a run of the whole notebook.',
}


def address() -> str | None:
  """Returns where the repository is, if setup.cfg says so."""
  setup = configparser.ConfigParser()
  setup.read(_ROOT / 'setup.cfg')
  return setup.get('metadata', 'url', fallback=None)


def addressed(script: str, name: str, repository: str | None) -> str:
  """Returns the script of a notebook with what follows from where the repository is.

  Args:
    script: the script.
    name: of the notebook.
    repository: address of the repository; None if it has none yet.
  """
  script = _ANY_BADGE.sub('', script)
  source = f'git+{repository}' if repository else '..'
  script = _SOURCE.sub(f"SOURCE = '{source}'", script)
  if repository is None or not repository.startswith('https://github.com/'):
    return script
  badge = _BADGE.format(
    repository=repository.removeprefix('https://').replace('.com', ''), name=name
  )
  return re.sub(
    r'(?<=^# %% \[markdown\]\n)(# # .*\n#\n)', rf'\1{badge}', script, flags=re.MULTILINE
  )


def sync() -> None:
  """Writes every notebook from its script."""
  import jupytext

  for name in NAMES:
    path = FOLDER / f'{name}.py'
    path.write_text(addressed(path.read_text(), name, address()))
    notebook = jupytext.read(path)
    # Without what differs from one writing to the next.
    for number, cell in enumerate(notebook.cells):
      cell['id'], cell['metadata'] = str(number), {}
    jupytext.write(notebook, path.with_suffix('.ipynb'))


def read(path: pathlib.Path) -> Any:
  """Returns a notebook."""
  return nbformat.read(path, as_version=4)


def run(
  name: str,
  folder: pathlib.Path,
  *,
  short: bool,
  more: Sequence[str] = (),
  env: Mapping[str, str] | None = None,
) -> Any:
  """Executes a notebook in an empty folder and keeps a copy with its outputs; returns that.

  Args:
    name: of the notebook.
    folder: folder of the copy.
    short: whether to run the short form.
    more: code of cells to run after the last one, which are not part of the copy.
    env: variables of the environment that differ from those of this process.

  Raises:
    nbclient.exceptions.CellExecutionError: if a cell fails.
  """
  import nbclient

  notebook = read(FOLDER / f'{name}.ipynb')
  count = len(notebook.cells)
  notebook.cells += [nbformat.v4.new_code_cell(code) for code in more]
  environment = {**os.environ, SHORT: '1' if short else '', **(env or {})}
  with tempfile.TemporaryDirectory(prefix='notebook_') as work:
    client = nbclient.NotebookClient(
      notebook,
      timeout=None,
      # Else what a command writes is as many outputs as it was read in pieces.
      coalesce_streams=True,
      resources={'metadata': {'path': work}},
    )
    client.execute(env=environment)
  folder.mkdir(parents=True, exist_ok=True)
  copy = nbformat.from_dict({**notebook, 'cells': notebook.cells[:count]})
  copy.metadata['short'] = short
  nbformat.write(copy, folder / f'{name}.ipynb')
  return notebook


def page(name: str) -> tuple[str, dict[str, bytes]]:
  """Returns a notebook as Markdown, and the pictures in it by their paths.

  Outputs are those of its executed copy, unless that is of an earlier state of the notebook.
  """
  import nbconvert

  notebook, short = read(FOLDER / f'{name}.ipynb'), None
  executed = pathlib.Path(
    os.environ.get(EXECUTED) or _ROOT / 'build' / 'notebooks', f'{name}.ipynb'
  )
  if executed.exists():
    copy = read(executed)
    if [cell.source for cell in copy.cells] == [cell.source for cell in notebook.cells]:
      notebook, short = copy, copy.metadata['short']
  # Else known of executed notebooks alone: the language of fenced code.
  notebook.metadata['language_info'] = {'name': 'python'}
  text, resources = nbconvert.MarkdownExporter().from_notebook_node(
    notebook, {'output_files_dir': name, 'unique_key': name}
  )
  title, _, rest = text.lstrip().partition('\n')
  # A page of the site loads nothing from a network, as the badge's picture would be.
  rest = rest.replace('![Open in Colab][badge]', 'Open in Colab')
  note = f'*{_NOTES[short]} [The notebook itself]({name}.ipynb), and [how to run it](README.md).*'
  return f'{title}\n\n{note}\n{rest}', dict(resources['outputs'])


def main() -> None:
  """Runs the command."""
  parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
  commands = parser.add_subparsers(dest='command', required=True)
  commands.add_parser('sync')
  running = commands.add_parser('run')
  running.add_argument('--short', action='store_true')
  running.add_argument('names', nargs='*', metavar='NAME', help='all by default')
  flags = parser.parse_args()
  if flags.command == 'sync':
    sync()
    return
  for name in flags.names or NAMES:
    if name not in NAMES:
      parser.error(f'there is no notebook {name}; give some of {", ".join(NAMES)}')
    print(f'{name} ...', flush=True)
    run(name, _ROOT / 'build' / 'notebooks', short=flags.short)


if __name__ == '__main__':
  main()
