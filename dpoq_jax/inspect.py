"""Shows what an artifact holds, from its manifest alone.

python -m dpoq_jax.inspect FOLDER
"""

import pathlib

import rich.console

from dpoq_jax import cli


def main(folder: str) -> None:
  """The command."""
  from dpoq_jax.deploy.artifact import manifest, table

  console = rich.console.Console()
  with cli.user_errors():
    found = manifest.read(pathlib.Path(folder))
  console.print(table.table(found))
  for ring in found.rings:
    there = (pathlib.Path(folder) / ring.file).is_file()
    console.print(f'{ring.file}: {"here" if there else "not here"}', highlight=False)


if __name__ == '__main__':
  cli.run(main, argument='the folder of an artifact')
