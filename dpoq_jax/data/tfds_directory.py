"""Finds and checks the directories in which TFDS keeps data sets: ROOT/NAME/[CONFIG/]VERSION."""

from collections.abc import Iterator
import concurrent.futures
import json
import os
import pathlib
import shlex
from typing import Any, cast

from dpoq_jax.runtime import terminal

# Keys of features.json whose value names a class, in its formats of all times, and what may be
# named: TFDS imports the module, whatever it is.
_CLASS_KEYS = ('pythonClassName', 'python_class_name', 'type')
_CLASSES = 'tensorflow_datasets.core.features.'


class DataNotFoundError(FileNotFoundError):
  """Says that a data set is not in the directory where it was looked for.

  Attributes:
    what: which data set is not where, without a stop.
    prepare: shell command that prepares it there; None if there is none.
  """

  def __init__(self, what: str, advice: str, prepare: str | None = None) -> None:
    """Takes what is not there, what to do about it where data.dir is set, and the command."""
    super().__init__(f'{what}: {advice}')
    self.what, self.prepare = what, prepare


def root_dir(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
  """Returns the directory that holds all TFDS data sets.

  Args:
    data_dir: that directory, `~` allowed; None for TFDS's own default, $TFDS_DATA_DIR or
      ~/tensorflow_datasets.
  """
  if data_dir is None:
    data_dir = os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')
  return pathlib.Path(data_dir).expanduser()


def prepared_dir(name: str, version: str, data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
  """Returns where TFDS keeps a version of a data set, whether or not it is there.

  Args:
    name: name of a TFDS data set without configs, `cifar10` for example.
    version: version number, `3.0.2` for example.
    data_dir: directory of all TFDS data sets; see `root_dir`.
  """
  return root_dir(data_dir) / name / version


def newest_version(
  name: str, data_dir: str | os.PathLike[str] | None, *, allowed: str
) -> pathlib.Path:
  """Finds the directory of a version of a data set, of the newest one if the name leaves it open.

  Args:
    name: `name`, `name/config` or `name/config/version` of a TFDS data set (a colon may stand for
      a slash), or the path of a version directory.
    data_dir: directory of all TFDS data sets, unless `name` is a path; see `root_dir`.
    allowed: what a name may be; ends the message of the error.

  Raises:
    DataNotFoundError: if there is no such directory.
  """
  # Shown as it was looked for, since it may have been relative to another folder.
  root = root_dir(data_dir).absolute()
  # Joined to the root, an absolute path stays as it is.
  path = root / pathlib.Path(name.replace(':', '/')).expanduser()
  if (path / 'dataset_info.json').exists():
    return path
  versions = [info.parent for info in path.glob('*/dataset_info.json')]
  # Compared as numbers: 1.10.0 is newer than 1.9.0.
  numbered = {tuple(map(int, v.name.split('.'))): v for v in versions if _is_version(v.name)}
  if numbered:
    return numbered[max(numbered)]
  where = path if path.is_absolute() and not path.is_relative_to(root) else f'{name} in {root}'
  raise DataNotFoundError(f'data set {where} not found', allowed)


def check_directory(name: str, path: pathlib.Path, *, repair: str, convert: str) -> None:
  """Checks that a version directory is whole and readable without TensorFlow.

  Args:
    name: name of the data set, for messages.
    path: version directory.
    repair: what to do about a directory that is not whole; ends the message of that error.
    convert: what to do about one in another format than array_record; ends the message of that
      error.

  Raises:
    FileNotFoundError: if files are missing.
    ValueError: if the records are stored in another format than array_record, or something in it
      is no file that can be read.
  """
  # What TFDS opens cannot be interrupted, and a pipe in place of a file may have no end.
  if strange := [each for each in path.glob('*') if not (each.is_file() or each.is_dir())]:
    raise ValueError(
      f'data set {name} in {path} is damaged: {repair} ({strange[0].name} is no regular file)'
    )
  try:
    info = json.loads((path / 'dataset_info.json').read_text())
    prefix = info.get('name', name)
    shards = {split['name']: len(split['shardLengths']) for split in info['splits']}
  # JSON of another shape raises whatever it is not.
  except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
    raise FileNotFoundError(
      f'data set {name} in {path} has no readable dataset_info.json: {repair}'
    ) from error
  # Directories older than the choice of a format name none: they hold TFRecords.
  formats = [info.get('fileFormat', 'tfrecord'), *info.get('alternativeFileFormats', [])]
  if 'array_record' not in formats:
    raise ValueError(
      f'data set {name} in {path} is stored as {formats[0]}, which only TensorFlow reads: {convert}'
    )
  for split, count in shards.items():
    if len(_record_files(path, prefix, split)) != count:
      raise FileNotFoundError(f'data set {name} in {path} lacks {split} files: {repair}')


def open_builder(name: str, path: pathlib.Path, *, repair: str) -> Any:
  """Opens a version directory that was checked; returns the TFDS builder that reads it.

  Args:
    name: name of the data set, for messages.
    path: version directory.
    repair: what to do about files that are damaged; ends the message of the error.

  Raises:
    ValueError: if the files that describe the data set are damaged, or name a class that is not
      one of TFDS's features.
  """
  import tensorflow_datasets as tfds

  try:
    classes = set(_classes(json.loads((path / 'features.json').read_text())))
    if foreign := sorted(each for each in classes if not each.startswith(_CLASSES)):
      raise ValueError(f'features.json names {foreign[0]}, which is none of {_CLASSES}*')
    return cast(Any, tfds.builder_from_directory(path))
  # They are JSON that names classes, and may make TFDS raise anything.
  except Exception as error:
    raise ValueError(
      f'data set {name} in {path} is damaged: {repair} ({terminal.one_line(error)})'
    ) from error


def check_counts(name: str, path: pathlib.Path, info: Any, split: str, *, repair: str) -> None:
  """Checks that the files of a split hold as many records as the data set says of itself.

  TFDS reads that many, and would leave out the others without a word.

  Args:
    name: name of the data set, for messages.
    path: version directory.
    info: what TFDS says of it.
    split: split that is read, or parts of splits.
    repair: what to do about files that are damaged; ends the message of the error.

  Raises:
    ValueError: if they hold more or fewer.
  """
  for each in info.splits.values():
    if each.name not in split:
      continue
    paths = _record_files(path, info.name, each.name)
    try:
      with concurrent.futures.ThreadPoolExecutor() as pool:
        found = list(pool.map(_records, paths))
      if found != each.shard_lengths:
        raise ValueError(
          f'its {each.name} files hold {sum(found):,} records, dataset_info.json says '
          f'{sum(each.shard_lengths):,}'
        )
    # A file whose end is damaged, as array_record says.
    except (ValueError, RuntimeError) as error:
      raise ValueError(
        f'data set {name} in {path} is damaged: {repair} ({terminal.one_line(error)})'
      ) from error


def check_prepared(name: str, path: pathlib.Path) -> None:
  """Checks the version directory of a data set that `dpoq_jax.data.prepare` can write.

  Args:
    name: name of the data set.
    path: its directory, as `prepared_dir` gives it.

  Raises:
    DataNotFoundError: if it is absent; the message holds the command that writes it.
    FileNotFoundError: if files are missing; likewise.
    ValueError: if the records are stored in another format than array_record.
  """
  # Shown as it was looked for, since it may have been relative to another folder.
  root = path.parent.parent.absolute()
  if not path.exists():
    command = _prepare_command(name, root)
    raise DataNotFoundError(
      f'data set {name} not found in {root}',
      f'give --config.data.dir=DIR, where it is, or run {command}',
      command,
    )
  convert = f'keep it and run {_prepare_command(name, "OTHER_DIRECTORY")}'
  check_directory(name, path, repair=how_to_repair(name, path), convert=convert)


def how_to_repair(name: str, path: pathlib.Path) -> str:
  """Returns what to do about a damaged directory that `dpoq_jax.data.prepare` wrote, in words."""
  return f'delete that directory and run {_prepare_command(name, path.parent.parent)}'


def conversion_command(path: pathlib.Path) -> str:
  """Returns the shell command of TFDS that converts a version directory to array_record."""
  directory = shlex.quote(str(path))
  # TFDS has two converters; this is the documented one.
  return f'tfds convert_format --dataset_version_dir={directory} --out_file_format=array_record'


def _prepare_command(name: str, data_dir: str | os.PathLike[str]) -> str:
  return f'dpoq prepare {name} --data-dir={shlex.quote(os.fspath(data_dir))}'


def _is_version(name: str) -> bool:
  return all(part.isdigit() for part in name.split('.'))


def _classes(features: Any) -> Iterator[str]:
  """Yields the names of all classes in the content of a features.json."""
  if isinstance(features, dict):
    for key, value in cast(dict[str, Any], features).items():
      if key in _CLASS_KEYS and isinstance(value, str):
        yield value
      yield from _classes(value)
  elif isinstance(features, list):
    for value in cast(list[Any], features):
      yield from _classes(value)


def _record_files(path: pathlib.Path, prefix: str, split: str) -> list[pathlib.Path]:
  """Returns the record files of a split, sorted."""
  # Not by a pattern of names: both come from a file, and not all text is one.
  start = f'{prefix}-{split}.array_record-'
  return sorted(each for each in path.iterdir() if each.name.startswith(start))


def _records(path: pathlib.Path) -> int:
  """Returns the number of records in a file."""
  from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

  reader = array_record_module.ArrayRecordReader(str(path))
  try:
    return reader.num_records()
  finally:
    reader.close()
