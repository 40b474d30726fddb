"""Finds and checks the directories in which TFDS keeps data sets."""

import json
import os
import pathlib
import shlex


def prepared_dir(name: str, version: str, data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
  """Returns where TFDS keeps the data set, whether or not it is there."""
  return root_dir(data_dir) / name / version


def check_prepared(name: str, path: pathlib.Path) -> None:
  """Checks that a data set which `prepare` writes is there, whole, and readable without TensorFlow.

  Raises:
    FileNotFoundError: if it is absent or files are missing.
    ValueError: if it is stored in another format than array_record.
  """
  root = path.parent.parent
  if not path.exists():
    raise FileNotFoundError(f'data set {name} not found in {root}: run {_command(name, root)}')
  convert = f'keep it and run {_command(name, "OTHER_DIRECTORY")}'
  check_directory(name, path, repair=how_to_repair(name, path), convert=convert)


def check_directory(name: str, path: pathlib.Path, *, repair: str, convert: str) -> None:
  """Checks that a TFDS version directory is whole and readable without TensorFlow.

  Args:
    name: of the data set, for messages.
    path: the directory.
    repair: what to do about one that is not whole; ends the message.
    convert: what to do about one in another format than array_record; ends the message.

  Raises:
    FileNotFoundError: if files are missing.
    ValueError: if it is stored in another format.
  """
  try:
    info = json.loads((path / 'dataset_info.json').read_text())
    prefix = info.get('name', name)
    shards = {split['name']: len(split['shardLengths']) for split in info['splits']}
  except (OSError, ValueError, KeyError) as error:
    raise FileNotFoundError(
      f'data set {name} in {path} has no readable dataset_info.json: {repair}'
    ) from error
  formats = [info.get('fileFormat', 'tfrecord'), *info.get('alternativeFileFormats', [])]
  if 'array_record' not in formats:
    raise ValueError(
      f'data set {name} in {path} is stored as {formats[0]}, which only TensorFlow reads: {convert}'
    )
  for split, count in shards.items():
    if len(list(path.glob(f'{prefix}-{split}.array_record-*'))) != count:
      raise FileNotFoundError(f'data set {name} in {path} lacks {split} files: {repair}')


def root_dir(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
  """The directory of all TFDS data sets; None is TFDS's own default."""
  if data_dir is None:
    data_dir = os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')
  return pathlib.Path(data_dir).expanduser()


def _command(name: str, data_dir: str | os.PathLike[str]) -> str:
  return f'python -m dpoq_jax.data.prepare {name} --data-dir={shlex.quote(os.fspath(data_dir))}'


def how_to_repair(name: str, path: pathlib.Path) -> str:
  """Returns the end of a message about a data set that `prepare` wrote and that is damaged."""
  return f'delete that directory and run {_command(name, path.parent.parent)}'
