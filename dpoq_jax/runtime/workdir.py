"""Keeps the directory of a run: which run it is, and that one process trains in it."""

from collections.abc import Iterator
import contextlib
import pathlib
import re
from typing import Annotated

import pydantic
from pydantic import Field
import pydantic.dataclasses

from dpoq_jax import config as config_lib
from dpoq_jax.runtime.files import check_folder, lock, read_regular, write_whole

CONFIG_FILE = 'config.json'
DATASET_FILE = 'dataset.json'

LOCATIONS = frozenset({'data.dir', 'data.workers', 'data.max_corrupt'})
"""Config fields that may differ between processes of a run: where things are, how they are read."""

MAY_CHANGE_ON_RESUME = LOCATIONS | {'steps_per_dispatch'}
"""Config fields that may differ when a run is resumed: also how it is run, but not what it is."""


# Images of more pixels a side than any camera's come from a damaged file.
_Side = Annotated[int, Field(ge=1, le=2**16)]

# Checkpoints are stored by Orbax and TensorStore: the former takes the path for a pattern of file
# names, which matches nothing or the pieces of another run; the latter reads a backslash as a
# slash, and refuses control characters and what is not UTF-8.
_UNSTORABLE = re.compile(r'[*?\[\]\\\x00-\x1f\x7f\ud800-\udfff]|[a-z]+:/')


@pydantic.dataclasses.dataclass(frozen=True, config={'extra': 'forbid', 'strict': True})
class DatasetFacts:
  """Holds what a network needs to know of its training data once that is out of reach.

  Attributes:
    image_shape: (height, width, channels).
    class_names: one per class.
  """

  image_shape: tuple[_Side, _Side, Annotated[int, Field(ge=1, le=4)]]
  class_names: Annotated[tuple[str, ...], Field(min_length=1)]


_FACTS = pydantic.TypeAdapter(DatasetFacts)


def read_config(workdir: pathlib.Path) -> config_lib.Config:
  """Reads the config of the run in `workdir`.

  Raises:
    FileNotFoundError: if there is no run in it.
    ConfigError: if the file is not a config of this version.
    ValueError: if it is no regular file.
  """
  path = workdir / CONFIG_FILE
  check_folder(workdir)
  if not path.exists():
    raise FileNotFoundError(f'{workdir} holds no run: there is no {CONFIG_FILE} in it.')
  content = read_regular(path)
  try:
    return config_lib.from_json(content.decode())
  except ValueError as error:
    raise config_lib.ConfigError(f'{path}: {error}') from None


def write_config(workdir: pathlib.Path, config: config_lib.Config) -> None:
  """Writes the config of a run; of a resumed one, whose locations may be others than before."""
  write_whole(workdir / CONFIG_FILE, config.model_dump_json(indent=2))


def write_dataset(workdir: pathlib.Path, facts: DatasetFacts) -> None:
  """Writes down what was trained on, in `dataset.json`."""
  write_whole(workdir / DATASET_FILE, _FACTS.dump_json(facts, indent=2).decode() + '\n')


def read_dataset(workdir: pathlib.Path) -> DatasetFacts:
  """Reads what was trained on in `workdir`.

  Raises:
    FileNotFoundError: if it was not noted.
    ValueError: if it is not what `write_dataset` writes, or no regular file.
  """
  path = workdir / DATASET_FILE
  check_folder(workdir)
  if not path.exists():
    raise FileNotFoundError(
      f'{workdir} is no whole run: there is no {DATASET_FILE} in it, which training writes; the '
      'command that began it goes on with it, and writes the file.'
    )
  content = read_regular(path)
  try:
    return _FACTS.validate_json(content.decode())
  except pydantic.ValidationError as error:
    first = error.errors()[0]
    reason = f'{".".join(map(str, first["loc"])) or "file"}: {first["msg"]}'
  except ValueError as error:
    reason = str(error)
  raise ValueError(f'{path} does not describe a data set ({reason}).')


def check(workdir: pathlib.Path, config: config_lib.Config) -> None:
  """Checks that this run can have `workdir`, and leaves it as it is.

  Raises:
    ConfigError: if it belongs to a run with another config; names the fields that differ.
    NotADirectoryError: if it is a file.
    ValueError: if no checkpoint can be stored under such a path.
  """
  if found := _UNSTORABLE.search(str(workdir.absolute())):
    raise ValueError(
      f'--workdir={workdir}: checkpoints cannot be stored under a path with {found[0]!r} in it; '
      'give another.'
    )
  if workdir.exists() and not workdir.is_dir():
    raise NotADirectoryError(f'--workdir={workdir} is a file; give a directory.')
  if (workdir / CONFIG_FILE).exists() and (
    changed := config_lib.differences(read_config(workdir), config, apart=MAY_CHANGE_ON_RESUME)
  ):
    raise config_lib.ConfigError(
      f'{workdir} holds a run with another config ({"; ".join(changed)}): '
      'give another --workdir, or the same config to resume.'
    )


@contextlib.contextmanager
def claim(workdir: pathlib.Path, config: config_lib.Config) -> Iterator[None]:
  """Makes `workdir` the directory of this run, in which no other process may train.

  Raises:
    ConfigError, NotADirectoryError, ValueError: if the run cannot have it; see `check`.
    BlockingIOError: if another process trains in it.
  """
  check(workdir, config)
  with lock(workdir, f'another process trains in {workdir}.'):
    # Once more, since another process may just have made it its own.
    check(workdir, config)
    if not (workdir / CONFIG_FILE).exists():
      write_config(workdir, config)
    yield
