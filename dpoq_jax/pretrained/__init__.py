"""Holds the trained networks that come with the library: an artifact and a card for each."""

import pathlib

from dpoq_jax.config import names as names_lib

_FOLDER = pathlib.Path(__file__).parent


def names() -> list[str]:
  """Returns the names of the networks, sorted."""
  return sorted(path.parent.name for path in _FOLDER.glob('*/manifest.json'))


def folder(name: str) -> pathlib.Path:
  """Returns the folder of a network's artifact, which also holds its card, `README.md`.

  Raises:
    ValueError: if there is no network of this name.
  """
  if name not in names():
    raise ValueError(f'no pretrained network {name}: {names_lib.hint(name, names())}')
  return _FOLDER / name
