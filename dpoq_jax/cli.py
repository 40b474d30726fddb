"""What the commands share: flags to a config, errors to one line."""

from collections.abc import Callable, Iterator
import contextlib
import functools
import os
import pathlib
import re
import sys
from typing import Literal, NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from dpoq_jax import config as config_lib
from dpoq_jax.data import corrupt
from dpoq_jax.runtime import compilation_cache


def define_config() -> flags.FlagHolder:
  """Defines `--config=FILE.py[:variant]` and `--config.any.field=value`."""
  for argument in sys.argv[1:]:
    field = re.match(r'--?(?:no)?config\.([\w.]+)', argument)
    if field and field[1] not in config_lib.field_names():
      fail(config_lib.unknown_field(field[1]))
  with _flag_errors():
    # Without --config the overrides are parsed here already, with the default file.
    return config_flags.DEFINE_config_file(
      'config',
      default=str(pathlib.Path(config_lib.__file__)),
      help_string='config file, as FILE.py[:variant]; the embedded digits job by default',
    )


def define_processes() -> None:
  """Defines the flags by which several processes become one run."""
  flags.DEFINE_string('coordinator', None, 'HOST:PORT at which process 0 listens')
  flags.DEFINE_integer('num_processes', None, 'of the run', lower_bound=1)
  flags.DEFINE_integer('process_id', None, 'of this process, from 0', lower_bound=0)
  flags.DEFINE_bool('distributed', False, 'one of several processes, which JAX finds by itself')


def join_processes() -> bool:
  """Joins the other processes of the run, if the flags say so; whether there are others."""
  found = flags.FLAGS.distributed
  address, count, index = (
    flags.FLAGS[name].value for name in ('coordinator', 'num_processes', 'process_id')
  )
  given = [each is not None for each in (address, count, index)]
  if not found and not any(given):
    return False
  if any(given) != all(given) or any(given) == found:
    fail('give --coordinator, --num_processes and --process_id, or --distributed alone.')
  if address is not None and not re.fullmatch(r'[^\s:]+:[0-9]{1,5}|\[[^\s]+\]:[0-9]{1,5}', address):
    fail(f'--coordinator={address}: give HOST:PORT.')
  if count is not None and index is not None and index >= count:
    fail(f'--process_id={index}: there are --num_processes={count}, counted from 0.')
  from dpoq_jax.runtime import processes

  try:
    processes.join(address, count, index)
  except (ValueError, RuntimeError) as error:
    fail(f'the processes of the run did not find one another: {error}', status=1)
  return processes.are_several()


def run(main: Callable[..., None], argument: str | None = None) -> NoReturn:
  """Parses the flags and runs `main`; flags that cannot be parsed are one line and status 2.

  Args:
    main: the command.
    argument: what the one argument is that the command takes beside flags, if any.
  """
  app.run(functools.partial(_main, main), flags_parser=functools.partial(_parse, argument))
  raise AssertionError('app.run does not return')


def parsed_config(holder: flags.FlagHolder) -> config_lib.Config:
  """The validated config of the `--config` flags; exits with one line if it is not valid."""
  with user_errors():
    return config_lib.validate(holder.value)


def required_path(holder: flags.FlagHolder) -> pathlib.Path:
  """The path of a flag that must be given."""
  if not holder.value:
    fail(f'--{holder.name}=DIR is required.')
  return pathlib.Path(holder.value)


def checkpoint_step(flag: str | None) -> int | Literal['best'] | None:
  """The value of `--step=N|best`.

  Raises:
    ValueError: if it is neither.
  """
  if flag is None or flag == 'best':
    return flag
  if flag.isdigit():
    return int(flag)
  raise ValueError(f'--step={flag}: give the number of a checkpoint, or best.')


def warn(message: str) -> None:
  """Prints a line on stderr."""
  print('warning:', message, file=sys.stderr)


def fail(message: object, status: int = 2) -> NoReturn:
  """Prints one line on stderr and exits."""
  lines = str(message).strip().splitlines()
  # Config flags put a whole traceback into the message of what a config file raises.
  line = lines[-1] if any(each.startswith('Traceback') for each in lines) else ' '.join(lines)
  print('error:', ' '.join(line.split()), file=sys.stderr)
  sys.exit(status)


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
  """Turns what bad input raises into one line on stderr and exit status 2."""
  try:
    yield
  except BrokenPipeError:
    raise
  except (ValueError, OSError) as error:
    fail(error)


@contextlib.contextmanager
def _flag_errors() -> Iterator[None]:
  """As `user_errors`, for a config file too: a program, which can raise anything."""
  try:
    yield
  except Exception as error:
    fail(error if isinstance(error, flags.Error) else f'{type(error).__name__}: {error}')


def _main(main: Callable[..., None], argv: list[str]) -> None:
  """Runs `main`; an interrupt is one line, and a reader that has gone (`| head`) no error.

  Too many corrupt records are one line, too, and status 1: no fault of the flags.
  """
  # Orbax and JAX have something to say of every checkpoint, and of every accelerator not found.
  logging.set_verbosity(logging.ERROR)
  compilation_cache.turn_on()
  try:
    main(*argv[1:])
    sys.stdout.flush()
  except KeyboardInterrupt:
    fail('interrupted.', status=130)
  except corrupt.CorruptRecordsError as error:
    fail(error, status=1)
  except BrokenPipeError:
    # Python flushes stdout once more on its way out.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(141)


def _with_underscores(argument: str) -> str:
  """`--average-bits=3` as `--average_bits=3`: both are how people write flags."""
  name, equals, value = argument.partition('=')
  return name[:2] + name[2:].replace('-', '_') + equals + value if name[:2] == '--' else argument


def _parse(argument: str | None, argv: list[str]) -> list[str]:
  with _flag_errors():
    rest = flags.FLAGS([_with_underscores(each) for each in argv])
  allowed = 1 if argument else 0
  if len(rest) > allowed + 1:
    fail(f'unexpected argument {rest[allowed + 1]!r}: flags are written --name=value.')
  if len(rest) <= allowed:
    fail(f'give {argument}.')
  return rest
