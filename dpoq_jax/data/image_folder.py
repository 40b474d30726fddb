"""Searches folders for images, and counts what is passed over."""

import collections
from collections.abc import Mapping, Set
import os
import pathlib
from typing import NamedTuple


class Found(NamedTuple):
  """Holds what a folder and all folders in it hold.

  Attributes:
    files: paths of the files with a suffix asked for, and of the folders that cannot be listed,
      which reading will say; sorted.
    passed_over: number of the other files, by suffix.
  """

  files: list[pathlib.Path]
  passed_over: Mapping[str, int]


def search(root: pathlib.Path, suffixes: Set[str]) -> Found:
  """Searches a folder and all folders in it; linked ones, too, but each folder once.

  A folder is known by its device and number, so that links in a circle come to an end. Folders
  proper come before linked ones: their files are found under the names without links.

  Args:
    root: folder to search.
    suffixes: suffixes of the files wanted, in lower case.
  """
  files: list[pathlib.Path] = []
  passed_over: collections.Counter[str] = collections.Counter()
  seen: set[tuple[int, int]] = set()
  folders, linked = [root], collections.deque[pathlib.Path]()
  while folders or linked:
    folder = folders.pop() if folders else linked.popleft()
    try:
      found = folder.stat()
      if (found.st_dev, found.st_ino) in seen:
        continue
      seen.add((found.st_dev, found.st_ino))
      with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    except OSError:
      files.append(folder)
      continue
    for entry in listed:
      path = folder / entry.name
      if _is_folder(entry):
        (linked if entry.is_symlink() else folders).append(path)
      elif path.suffix.lower() in suffixes:
        # Dangling links, too: they are reported as files that cannot be read.
        files.append(path)
      else:
        passed_over[path.suffix.lower() or 'without a suffix'] += 1
  return Found(sorted(files), passed_over)


def summary(passed_over: Mapping[str, int]) -> str:
  """Returns how many files were passed over, in words, the most frequent kind first."""
  kinds = sorted(passed_over.items(), key=lambda item: (-item[1], item[0]))
  shown = [f'{suffix} {count}' for suffix, count in kinds[:10]]
  if len(kinds) > 10:
    shown.append(f'{len(kinds) - 10} other kinds')
  total = sum(passed_over.values())
  return f'{total} file{"s" if total != 1 else ""} passed over ({", ".join(shown)})'


def _is_folder(entry: os.DirEntry[str]) -> bool:
  """Tells whether an entry is a folder or a link to one."""
  try:
    return entry.is_dir()
  except OSError:  # A link to itself.
    return False
