"""Defines the flags that several commands have, and reads what they were given."""

from collections.abc import Sequence
import pathlib
import re
import sys
from typing import Any, Literal

from absl import flags as absl_flags
from absl.flags import (
  ArgumentParser,
  ArgumentSerializer,
  DEFINE_bool,
  DEFINE_enum,
  DEFINE_float,
  DEFINE_integer,
  DEFINE_string,
  FlagValues,
)
from ml_collections import config_flags

from dpoq_jax import config as config_lib
from dpoq_jax import configs, pretrained
from dpoq_jax.cli import spelling
from dpoq_jax.cli.errors import fail, user_errors

__all__ = [
  'DEFINE_bool',
  'DEFINE_enum',
  'DEFINE_float',
  'DEFINE_integer',
  'DEFINE_string',
  'FlagValues',
  'define_path',
]  # fmt: skip

DATA_DIR = '--data-dir'
"""The flag of `define_data_dir`, for messages."""


class _PathParser(ArgumentParser):
  """Reads a path, in which `~` is the home directory: shells leave it alone after `=`."""

  def parse(self, argument: str) -> str:
    """Returns the path."""
    return expanded(argument)


def define_path(name: str, what: str, flags: FlagValues) -> None:
  """Defines a flag that is the path of a file or folder."""
  absl_flags.DEFINE(_PathParser(), name, None, what, flags, ArgumentSerializer())


def define_workdir(flags: FlagValues, what: str = 'directory of the run') -> None:
  """Defines `--workdir=DIR`."""
  define_path('workdir', what, flags)


def define_network(flags: FlagValues) -> None:
  """Defines `--workdir=DIR`, `--artifact=FOLDER` and `--pretrained=NAME`, of which one is given."""
  define_workdir(flags)
  define_path('artifact', 'folder of an artifact, in place of a run', flags)
  DEFINE_string(
    'pretrained',
    None,
    f'network that comes with the library, in place of a run: {", ".join(pretrained.names())}',
    flag_values=flags,
  )


def network_folder(flags: FlagValues) -> pathlib.Path:
  """Returns where the network is that the flags of `define_network` name.

  Raises:
    ValueError: if none is named, several are, or there is no pretrained one of this name.
  """
  given = [name for name in ('workdir', 'artifact', 'pretrained') if flags[name].value]
  if len(given) != 1:
    raise ValueError(
      'give one of --workdir=DIR, --artifact=FOLDER and --pretrained=NAME, one of '
      f'{", ".join(pretrained.names())}.'
    )
  if flags.pretrained:
    return pretrained.folder(flags.pretrained)
  return required_path(flags, given[0])


def define_step(flags: FlagValues) -> None:
  """Defines `--step=N|best`."""
  DEFINE_string(
    'step', None, 'checkpoint, or "best"; the newest intact one by default', flag_values=flags
  )


def define_data_dir(
  flags: FlagValues, what: str = 'where the data set is now, if it moved'
) -> None:
  """Defines `--data-dir=DIR`."""
  define_path('data_dir', what, flags)


def define_operating_point(flags: FlagValues) -> None:
  """Defines `--operating-point=FILE`."""
  define_path('operating_point', 'file; the one in the workdir by default', flags)


def define_split_seed(flags: FlagValues) -> None:
  """Defines `--split-seed=N`."""
  DEFINE_integer(
    'split_seed', None,
    'draws the halves of the test split; by default that of the operating point, or 0',
    lower_bound=0, upper_bound=2**32 - 1, flag_values=flags,
  )  # fmt: skip


def define_output(flags: FlagValues, what: str) -> None:
  """Defines `--output=PATH`."""
  define_path('output', what, flags)


def define_config(flags: FlagValues) -> None:
  """Defines `--config=NAME[:variant]`, or a file's path, and `--config.any.field=value`."""
  for word in sys.argv[1:]:
    field = re.match(r'--?(?:no)?config\.([\w.]+)', word)
    if field and field[1] not in config_lib.field_names():
      fail(config_lib.unknown_field(field[1]))
  with user_errors():
    sys.argv = [sys.argv[0], *_config_file_first(sys.argv[1:])]
  # Without --config the overrides are parsed here already, with the default file.
  config_flags.DEFINE_config_file(
    'config',
    default=str(pathlib.Path(config_lib.__file__)),
    help_string='NAME[:VARIANT] or FILE.py[:VARIANT]; the embedded digits job by default; '
    f'names: {", ".join(configs.names())}',
    flag_values=flags,
  )


def _config_file_first(words: Sequence[str]) -> list[str]:
  """Puts `--config=FILE`, found by its name, before what is changed in it."""
  end = words.index('--') if '--' in words else len(words)
  for place, word in enumerate(words[:end]):
    name, equals, path = word.partition('=')
    if name in ('-config', '--config'):
      # The file may be a word of its own.
      rest = words[place + 1 :] if equals else words[place + 2 :]
      path = path if equals else ''.join(words[place + 1 : place + 2])
      name, colon, variant = path.partition(':')
      return [f'--config={configs.find(name)}{colon}{variant}', *words[:place], *rest]
  return list(words)


def expanded(path: str) -> str:
  """Returns a path with the home directory in place of `~`.

  Raises:
    ValueError: if there is no such home directory.
  """
  try:
    return str(pathlib.Path(path).expanduser()) if path.startswith('~') else path
  except RuntimeError as error:
    raise ValueError(f'{path}: {error}') from None


def define_processes(flags: FlagValues) -> None:
  """Defines the flags by which several processes become one run."""
  DEFINE_string('coordinator', None, 'HOST:PORT at which process 0 listens', flag_values=flags)
  DEFINE_integer(
    'num_processes', None, 'number of processes of the run', lower_bound=1, flag_values=flags
  )
  DEFINE_integer(
    'process_id', None, 'number of this process, from 0', lower_bound=0, flag_values=flags
  )
  DEFINE_bool(
    'distributed', False, 'one of several processes, which JAX finds by itself', flag_values=flags
  )


def join_processes(flags: FlagValues) -> bool:
  """Joins the other processes of the run, if the flags say so; returns whether there are others."""
  address, count, index = flags.coordinator, flags.num_processes, flags.process_id
  given = [each is not None for each in (address, count, index)]
  if not flags.distributed and not any(given):
    return False
  if any(given) != all(given) or any(given) == flags.distributed:
    fail('give --coordinator, --num-processes and --process-id, or --distributed alone.')
  if address is not None and not re.fullmatch(r'[^\s:]+:[0-9]{1,5}|\[[^\s]+\]:[0-9]{1,5}', address):
    fail(f'--coordinator={address}: give HOST:PORT.')
  if count is not None and index is not None and index >= count:
    fail(f'--process-id={index}: there are --num-processes={count}, counted from 0.')
  from dpoq_jax.runtime import processes

  try:
    processes.join(address, count, index)
  except (ValueError, RuntimeError) as error:
    fail(f'the processes of the run did not find one another: {error}', status=1)
  return processes.are_several()


def parsed_config(flags: FlagValues) -> config_lib.Config:
  """Returns the validated config of the `--config` flags; exits with one line if it is invalid."""
  with user_errors():
    config = config_lib.validate(flags.config)
    directory = config.data.dir
    found = {
      'name': expanded(config.data.name),
      # Absolute, since the run may be used from another folder.
      'dir': directory and str(pathlib.Path(expanded(directory)).absolute()),
    }
    return config.model_copy(
      update={
        'data': config.data.model_copy(update=found),
        'init_from': config.init_from and expanded(config.init_from),
      }
    )


def required_path(flags: FlagValues, name: str) -> pathlib.Path:
  """Returns the path that a flag gives; exits with one line if it was not given."""
  path = optional_path(flags, name)
  if path is None:
    fail(f'{spelling.shown(name)}=DIR is required.')
  return path


def optional_path(flags: FlagValues, name: str) -> pathlib.Path | None:
  """Returns the path that a flag gives, or None if it was not given."""
  value: Any = flags[name].value
  return pathlib.Path(value) if value else None


def checkpoint_step(flags: FlagValues) -> int | Literal['best'] | None:
  """Returns the checkpoint that `--step=N|best` names, or None if it was not given.

  Raises:
    ValueError: if it is neither a number nor best.
  """
  if flags.step is None or flags.step == 'best':
    return flags.step
  if flags.step.isdigit():
    return int(flags.step)
  raise ValueError(f'--step={flags.step}: give the number of a checkpoint, or best.')
