"""The directory of a run: which run it is, who writes in it, and how."""

from collections.abc import Iterator
import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
from typing import TextIO

from dpoq_jax import config as config_lib

CONFIG_FILE = 'config.json'
DATASET_FILE = 'dataset.json'


@dataclasses.dataclass(frozen=True)
class DatasetFacts:
  """What a network needs to know of the data it was trained on, once that is out of reach.

  Attributes:
    image_shape: (height, width, channels).
    class_names: one per class.
  """

  image_shape: tuple[int, int, int]
  class_names: tuple[str, ...]


def read_config(workdir: pathlib.Path) -> config_lib.Config:
  """The config of the run in `workdir`.

  Raises:
    FileNotFoundError: if there is no run in it.
    ConfigError: if the file is not a config of this version.
  """
  path = workdir / CONFIG_FILE
  if not path.is_file():
    raise FileNotFoundError(f'{workdir} holds no run: there is no {CONFIG_FILE} in it.')
  return config_lib.from_json(path.read_text('utf-8'))


def write_dataset(workdir: pathlib.Path, facts: DatasetFacts) -> None:
  """Notes what was trained on."""
  write_whole(workdir / DATASET_FILE, json.dumps(dataclasses.asdict(facts), indent=2) + '\n')


def read_dataset(workdir: pathlib.Path) -> DatasetFacts:
  """What was trained on in `workdir`.

  Raises:
    FileNotFoundError: if it was not noted.
    ValueError: if the file is not what `write_dataset` writes.
  """
  path = workdir / DATASET_FILE
  if not path.is_file():
    raise FileNotFoundError(f'there is no {DATASET_FILE} in {workdir}: train it with this version.')
  try:
    facts = json.loads(path.read_text('utf-8'))
    height, width, channels = map(int, facts['image_shape'])
    return DatasetFacts((height, width, channels), tuple(map(str, facts['class_names'])))
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(f'{path} does not describe a data set ({error}).') from None


@contextlib.contextmanager
def claim(workdir: pathlib.Path, config: config_lib.Config) -> Iterator[None]:
  """Makes `workdir` the directory of this run and keeps other processes from training in it.

  Raises:
    ConfigError: if it belongs to a run with another config; names the fields that differ.
    NotADirectoryError: if it is a file.
    BlockingIOError: if another process trains in it.
  """
  if workdir.exists() and not workdir.is_dir():
    raise NotADirectoryError(f'--workdir={workdir} is a file; give a directory.')
  path = workdir / CONFIG_FILE
  if path.is_file() and (changed := config_lib.differences(read_config(workdir), config)):
    raise config_lib.ConfigError(
      f'{workdir} holds a run with another config ({"; ".join(changed)}): '
      'give another --workdir, or the same config to resume.'
    )
  with lock(workdir, f'another process trains in {workdir}.'):
    # Also where only locations differ: the newest are the ones that hold.
    write_whole(path, config.model_dump_json(indent=2))
    yield


@contextlib.contextmanager
def lock(folder: pathlib.Path, refusal: str) -> Iterator[None]:
  """Makes a folder if need be and keeps it for this process.

  Raises:
    BlockingIOError: with the message `refusal`, if another process has it.
    OSError: if it cannot be made.
  """
  folder.mkdir(parents=True, exist_ok=True)
  with (folder / '.lock').open('w') as file:
    try:
      # Gone with the process, however it ends.
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise BlockingIOError(refusal) from None
    yield


def write_whole(path: pathlib.Path, text: str) -> None:
  """Writes a file in one piece: a killed process leaves the old one or the new one, no half."""
  with whole_file(path) as file:
    file.write(text)


@contextlib.contextmanager
def whole_file(path: pathlib.Path) -> Iterator[TextIO]:
  """A text file (UTF-8) that gets its name once it is whole, and is gone if that fails.

  File names that are not UTF-8 can be written to it, byte for byte.

  Raises:
    OSError: if it cannot be written there.
  """
  if path.is_dir():
    raise IsADirectoryError(f'{path} is a directory: give a file.')
  partial = path.with_name(f'.{path.name}.{os.getpid()}.partial')
  try:
    with partial.open('w', encoding='utf-8', errors='surrogateescape', newline='') as file:
      yield file
    partial.replace(path)
  finally:
    partial.unlink(missing_ok=True)
