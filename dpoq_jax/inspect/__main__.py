"""Shows what an exported folder holds, from its manifest alone.

    dpoq inspect FOLDER

FOLDER is one that `dpoq export` wrote: rings, ONNX graphs or StableHLO programs.

    dpoq inspect shipped
"""

# This folder has no `__init__.py`: a module `inspect.py` beside `train.py`, or a regular package,
# would hide the standard library's `inspect` from `python dpoq_jax/train.py`.

import pathlib

from dpoq_jax.cli import flags as shared
from dpoq_jax.cli.errors import user_errors
from dpoq_jax.cli.run import run
from dpoq_jax.runtime.console import Console


def define_flags(flags: shared.FlagValues) -> None:
  """Defines no flags: the command has none."""
  del flags


def main(flags: shared.FlagValues, folder: str) -> None:
  """Prints what a folder holds, and which of its files are there."""
  del flags
  from dpoq_jax.deploy import graph_table
  from dpoq_jax.deploy.artifact import manifest, table

  console, path = Console(), pathlib.Path(folder)
  with user_errors():
    if kind := graph_table.kind(path):
      graphs = graph_table.read(path, kind)
      console.print(graph_table.table(graphs, kind))
      whole = [graphs['cascade']] if 'cascade' in graphs else []
      names = [graph['file'] for graph in (*graphs['paths'], *graphs['precisions'], *whole)]
    else:
      found = manifest.read(path)
      console.print(table.table(found))
      names = [ring.file for ring in found.rings]
  for name in names:
    there = (path / name).is_file()
    console.print(f'{name}: {"here" if there else "not here"}', highlight=False)


if __name__ == '__main__':
  run(define_flags, main, argument='the folder of an export')
