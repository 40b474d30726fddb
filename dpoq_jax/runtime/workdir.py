"""Keeps the directory of a run: which run it is, and that one process trains in it."""

from collections.abc import Iterator
import contextlib
import dataclasses
import json
import pathlib

from dpoq_jax import config as config_lib
from dpoq_jax.runtime.files import lock, write_whole

CONFIG_FILE = 'config.json'
DATASET_FILE = 'dataset.json'

LOCATIONS = frozenset({'data.dir', 'data.workers', 'data.max_corrupt'})
"""Config fields that may differ between processes of a run: where things are, how they are read."""

MAY_CHANGE_ON_RESUME = LOCATIONS | {'steps_per_dispatch'}
"""Config fields that may differ when a run is resumed: also how it is run, but not what it is."""


@dataclasses.dataclass(frozen=True)
class DatasetFacts:
  """Holds what a network needs to know of its training data once that is out of reach.

  Attributes:
    image_shape: (height, width, channels).
    class_names: one per class.
  """

  image_shape: tuple[int, int, int]
  class_names: tuple[str, ...]


def read_config(workdir: pathlib.Path) -> config_lib.Config:
  """Reads the config of the run in `workdir`.

  Raises:
    FileNotFoundError: if there is no run in it.
    ConfigError: if the file is not a config of this version.
  """
  path = workdir / CONFIG_FILE
  if not path.is_file():
    raise FileNotFoundError(f'{workdir} holds no run: there is no {CONFIG_FILE} in it.')
  return config_lib.from_json(path.read_text('utf-8'))


def write_dataset(workdir: pathlib.Path, facts: DatasetFacts) -> None:
  """Writes down what was trained on, in `dataset.json`."""
  write_whole(workdir / DATASET_FILE, json.dumps(dataclasses.asdict(facts), indent=2) + '\n')


def read_dataset(workdir: pathlib.Path) -> DatasetFacts:
  """Reads what was trained on in `workdir`.

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
  """Makes `workdir` the directory of this run, in which no other process may train.

  Raises:
    ConfigError: if it belongs to a run with another config; names the fields that differ.
    NotADirectoryError: if it is a file.
    BlockingIOError: if another process trains in it.
  """
  if workdir.exists() and not workdir.is_dir():
    raise NotADirectoryError(f'--workdir={workdir} is a file; give a directory.')
  path = workdir / CONFIG_FILE
  if path.is_file() and (
    changed := config_lib.differences(read_config(workdir), config, apart=MAY_CHANGE_ON_RESUME)
  ):
    raise config_lib.ConfigError(
      f'{workdir} holds a run with another config ({"; ".join(changed)}): '
      'give another --workdir, or the same config to resume.'
    )
  with lock(workdir, f'another process trains in {workdir}.'):
    # Written again where only locations differ: a resumed run has those it was given last.
    write_whole(path, config.model_dump_json(indent=2))
    yield
