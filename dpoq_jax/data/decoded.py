"""Keeps the decoded images of a prepared data set beside it, so that they are decoded once.

A folder `decoded` holds two arrays for each split, and a file that is written last and says of what
they are: the CRC-32 of the record files and of the arrays. If any of these differs the records are
decoded anew. Images are mapped: several trainings share one copy of them in memory.
"""

from collections.abc import Callable, Sequence
import contextlib
import json
import pathlib
import zlib

import numpy as np

from dpoq_jax.runtime import files

# Raised when the same records are decoded otherwise.
_VERSION = 1
_BLOCK = 2**24


def decoded(
  folder: pathlib.Path,
  split: str,
  sources: Sequence[pathlib.Path],
  decode: Callable[[], tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the arrays of a split, decoded now or before.

  Args:
    folder: directory of the data set; where nothing can be written in it, nothing is kept.
    split: name of the split.
    sources: its record files.
    decode: function that decodes them.

  Returns:
    Images and labels, as `decode` returns them; read-only if they were kept.
  """
  kept = folder / 'decoded'
  names = [kept / f'{split}_images.npy', kept / f'{split}_labels.npy']
  digest = {'version': _VERSION, 'records': {path.name: _crc(path) for path in sources}}
  with contextlib.suppress(OSError, ValueError, RecursionError):
    with files.open_regular(kept / f'{split}.json') as file:
      said = json.load(file)
    if said == digest | {'arrays': [_crc(path) for path in names]}:
      images, labels = (np.load(path, mmap_mode='r', allow_pickle=False) for path in names)
      return np.asarray(images), np.asarray(labels)
  arrays = decode()
  # A full disk, or one that may only be read: the next start decodes again.
  with contextlib.suppress(OSError):
    kept.mkdir(exist_ok=True)
    for path, array in zip(names, arrays, strict=True):
      with files.whole_binary_file(path) as file:
        np.save(file, array)
    found = digest | {'arrays': [_crc(path) for path in names]}
    files.write_whole(kept / f'{split}.json', json.dumps(found))
  return arrays


def _crc(path: pathlib.Path) -> int:
  """Returns the CRC-32 of a file."""
  crc = 0
  with files.open_regular(path) as file:
    while block := file.read(_BLOCK):
      crc = zlib.crc32(block, crc)
  return crc
