"""Shows what an artifact holds, from its manifest alone.

dpoq inspect FOLDER
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
  """Prints the rings of an artifact, and which of their files are there."""
  del flags
  from dpoq_jax.deploy.artifact import manifest, table

  console = Console()
  with user_errors():
    found = manifest.read(pathlib.Path(folder))
  console.print(table.table(found))
  for ring in found.rings:
    there = (pathlib.Path(folder) / ring.file).is_file()
    console.print(f'{ring.file}: {"here" if there else "not here"}', highlight=False)


if __name__ == '__main__':
  run(define_flags, main, argument='the folder of an artifact')
