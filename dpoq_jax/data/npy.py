"""Reads arrays from `.npy` files that anyone may have written."""

import pathlib

import numpy as np

from dpoq_jax.runtime import files


def read(path: pathlib.Path) -> np.ndarray:
  """Maps the array of a `.npy` file into memory, to be read where it is used.

  Raises:
    ValueError: if the file does not hold one whole array of plain numbers, for whatever reason.
    OSError: if it cannot be opened.
  """
  with files.open_regular(path) as file:
    start, version = file.read(len(np.lib.format.MAGIC_PREFIX)), file.read(2)
  if start != np.lib.format.MAGIC_PREFIX:
    held = 'an archive of several arrays, perhaps' if start[:2] == b'PK' else 'something else'
    raise ValueError(f'{path} is not an array of images: it holds {held}; write it with numpy.save')
  # Headers of later versions may be of 4 GB, which NumPy would take memory for.
  if version != bytes([1, 0]):
    raise ValueError(
      f'{path} is not an array of images: its format is not version 1, as of numpy.save'
    )
  try:
    return np.lib.format.open_memmap(path, mode='r')
  # The header is Python, parsed: what is wrong with it may raise anything.
  except Exception as error:
    reason = ' '.join(str(error).split()) or type(error).__name__
    raise ValueError(f'{path} is not an array of images: {reason}') from None
