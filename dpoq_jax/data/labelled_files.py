"""Finds images with the class of each: in a folder for every class, or by a table of labels."""

import collections
from collections.abc import Iterable, Mapping, Sequence
import csv
import pathlib
from typing import NamedTuple
import warnings

from dpoq_jax.data import decode, image_folder

SPLITS: Mapping[str, str] = {
  'train': 'train',
  'val': 'validation',
  'valid': 'validation',
  'validation': 'validation',
  'test': 'test',
}
"""Names of folders, in lower case, that are taken for splits, and what the splits are called."""

_COLUMNS = ('path', 'label', 'split')


class LabelledFile(NamedTuple):
  """Describes an image file whose class is known.

  Attributes:
    name: path relative to the source, with slashes.
    path: path of the file.
    label: name of its class.
    split: split that the source puts it in; None if the source has none.
  """

  name: str
  path: pathlib.Path
  label: str
  split: str | None


class Found(NamedTuple):
  """Holds the images that a source labels.

  Attributes:
    files: the images, sorted by name.
    classes: names of the classes, sorted.
    passed_over: number of other files, by suffix or reason.
  """

  files: list[LabelledFile]
  classes: tuple[str, ...]
  passed_over: Mapping[str, int]

  @property
  def has_splits(self) -> bool:
    """Tells whether the source says which images are trained and which are reported on."""
    return self.files[0].split is not None


def find(source: pathlib.Path) -> Found:
  """Finds the images of a source; they are read later.

  A folder has a folder for each class, whose images may lie in folders of their own. These may
  also be in `train` and `val` (or `validation`) or `test`, which are then the splits. A table is a
  CSV file with the columns path, relative to the file, and label, and perhaps split.

  Raises:
    FileNotFoundError: if there is no such source, or no image in it, or a file of a table is
      missing.
    PermissionError: if a folder cannot be listed.
    ValueError: for a table that is none of these, fewer than two classes, or splits that cannot be
      trained on.
  """
  if source.is_dir():
    files, passed_over = _in_folders(source)
  elif source.suffix.lower() == '.csv' and source.is_file():
    files, passed_over = _in_table(source), {}
  else:
    raise FileNotFoundError(
      f'--source={source}: give a folder with a folder of images for each class, or a CSV file of '
      'path and label.'
    )
  if {each.split for each in files} == {'train'}:
    files = [each._replace(split=None) for each in files]
  classes = tuple(sorted({each.label for each in files}))
  _check_classes(source, classes)
  _check_splits(source, files)
  return Found(sorted(files), classes, passed_over)


def _in_folders(source: pathlib.Path) -> tuple[list[LabelledFile], Mapping[str, int]]:
  """Finds the images in folders of classes, and counts the other files."""
  found = image_folder.search(source, decode.suffixes())
  passed_over = collections.Counter(found.passed_over)
  paths: list[tuple[pathlib.Path, tuple[str, ...]]] = []
  for path in found.files:
    parts = path.relative_to(source).parts
    if path.suffix.lower() not in decode.suffixes():
      raise PermissionError(f'{path} cannot be listed: make it readable, or move it away.')
    if any(part.startswith('.') for part in parts):
      passed_over['hidden'] += 1
    else:
      paths.append((path, parts))
  tops = {parts[0].lower() for _, parts in paths if len(parts) > 1}
  has_splits = bool(tops) and tops <= SPLITS.keys()
  if not has_splits:
    _warn_of_splits(source, [parts for _, parts in paths if len(parts) > 1])
  files: list[LabelledFile] = []
  for path, parts in paths:
    if len(parts) < (3 if has_splits else 2):
      passed_over['in no class'] += 1
      continue
    split = SPLITS[parts[0].lower()] if has_splits else None
    label = parts[1 if has_splits else 0].strip()
    files.append(LabelledFile('/'.join(parts), path, label, split))
  if not files:
    others = f' ({image_folder.summary(passed_over)})' if passed_over else ''
    raise FileNotFoundError(
      f'{source} holds no images in folders of classes{others}: put each into a folder with the '
      f'name of its class, as {source}/cat/1.jpg.'
    )
  return files, passed_over


def _warn_of_splits(source: pathlib.Path, inside: Sequence[tuple[str, ...]]) -> None:
  """Warns if folders that look like splits are taken for classes, as another is beside them.

  Args:
    source: folder that was searched.
    inside: parts of the paths of the images in its folders.
  """
  depths: dict[str, int] = {}
  for top, *below in inside:
    depths[top] = min(depths.get(top, len(below)), len(below))
  # Their images lie in folders of their own, which those of a class may as well.
  splits = sorted(top for top, depth in depths.items() if top.lower() in SPLITS and depth > 1)
  others = sorted(top for top in depths if top.lower() not in SPLITS)
  if others and 'train' in map(str.lower, splits):
    warnings.warn(
      f'{source}: {" and ".join(splits)} taken for classes, since {others[0]} beside them is no '
      f'split: if they are splits, move {" and ".join(others[:3])} away.',
      stacklevel=2,
    )


def _in_table(source: pathlib.Path) -> list[LabelledFile]:
  """Reads the images that a CSV file labels."""
  try:
    with source.open(newline='', encoding='utf-8-sig') as file:
      reader = csv.DictReader(file, strict=True)
      columns = list(reader.fieldnames or ())
      _check_columns(source, columns)
      rows = [(reader.line_num, row) for row in reader]
  except UnicodeDecodeError:
    raise ValueError(f'{source} is not UTF-8: save it as UTF-8.') from None
  except csv.Error as error:
    raise ValueError(f'{source} is no CSV file ({error}).') from None
  files: list[LabelledFile] = []
  lines: dict[str, int] = {}
  missing: list[str] = []
  for line, row in rows:
    # Fields that are too many have no name, those that are missing no text.
    cells = {name: (row[name] or '').strip() for name in columns}
    if None in row or not all(cells.values()):
      raise ValueError(f'{source}, line {line}: give {", ".join(columns)}, none of them empty.')
    name, split = cells['path'], cells.get('split', '').lower()
    if (first := lines.setdefault(name, line)) != line:
      raise ValueError(f'{source}, line {line}: {name} has a label already, in line {first}.')
    if 'split' in columns and split not in SPLITS:
      raise ValueError(f'{source}, line {line}: split {split!r} is none of {", ".join(SPLITS)}.')
    path = source.parent / pathlib.Path(name).expanduser()
    if not path.exists():
      missing.append(f'{name} in line {line}')
    files.append(LabelledFile(name, path, cells['label'], SPLITS.get(split)))
  if missing:
    raise FileNotFoundError(
      f'{source} names {len(missing)} of {len(files)} files that are not in {source.parent}, the '
      f'first is {missing[0]}.'
    )
  if not files:
    raise FileNotFoundError(f'{source} holds no images: it has no line below its first.')
  return files


def _check_columns(source: pathlib.Path, columns: list[str]) -> None:
  """Checks the names of the columns of a table."""
  if sorted(columns) not in (sorted(_COLUMNS), sorted(_COLUMNS[:2])):
    raise ValueError(
      f'{source} has the columns {", ".join(columns) or "none"}: they are path and label, and '
      'perhaps split, named in its first line.'
    )


def _check_classes(source: pathlib.Path, classes: Iterable[str]) -> None:
  """Checks that there is something to tell apart, by names that can be written down."""
  first, *others = classes
  if not others:
    raise ValueError(f'{source} holds one class, {first}: to classify images takes two or more.')
  for name in classes:
    # TFDS keeps names in a file, one a line, in UTF-8.
    if not name or not name.isprintable():
      raise ValueError(
        f'{source}: the name of class {name!r} cannot be written down: rename it, without '
        'characters that are not printed.'
      )


def _check_splits(source: pathlib.Path, files: Iterable[LabelledFile]) -> None:
  """Checks that the splits of a source, if it has any, can be trained on."""
  by_split: dict[str | None, set[str]] = collections.defaultdict(set)
  for each in files:
    by_split[each.split].add(each.label)
  if None in by_split:
    return
  if 'train' not in by_split:
    raise ValueError(
      f'{source} has the splits {", ".join(map(str, by_split))}, but none to train on: call it '
      'train.'
    )
  if unknown := set[str]().union(*by_split.values()) - by_split['train']:
    raise ValueError(
      f'{source}: train has no images of class {min(unknown)}, other splits do: add some.'
    )
