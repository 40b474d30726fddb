"""Holds the config files that come with the library, and finds them by name."""

import pathlib

from dpoq_jax.config import names as names_lib

_FOLDER = pathlib.Path(__file__).parent


def names() -> list[str]:
  """Returns the names of the config files, sorted."""
  return sorted(path.stem for path in _FOLDER.glob('*.py') if path.stem != '__init__')


def find(name: str) -> pathlib.Path:
  """Returns the path of a config file: one of the library by its name, another by its path.

  Args:
    name: `cifar10_resnet20`, or the path of a file that defines `get_config`.

  Raises:
    FileNotFoundError: if there is none; the message has the name most like it.
  """
  path = pathlib.Path(name).expanduser()
  if path.is_file():
    return path
  own = _FOLDER / f'{path.stem}.py'
  if name in (path.stem, f'{path.stem}.py') and own.is_file() and path.stem in names():
    return own
  hint = names_lib.hint(path.stem, names())
  raise FileNotFoundError(f'--config={name}: there is no such file; {hint}')
