"""What the commands share: flags to a config, errors to one line."""

from collections.abc import Callable, Iterator
import contextlib
import functools
import pathlib
import sys
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from dpoq_jax import config as config_lib


def define_config() -> flags.FlagHolder:
  """Defines `--config=FILE.py[:variant]` and `--config.any.field=value`."""
  return config_flags.DEFINE_config_file(
    'config',
    default=str(pathlib.Path(config_lib.__file__)),
    help_string='config file, as FILE.py[:variant]; the embedded digits job by default',
    lock_config=False,
    accept_new_attributes=True,
  )


def run(main: Callable[[], None]) -> NoReturn:
  """Parses the flags and runs `main`; flags that cannot be parsed are one line and status 2."""
  app.run(functools.partial(_main, main), flags_parser=_parse)
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


def fail(message: object, status: int = 2) -> NoReturn:
  """Prints one line on stderr and exits."""
  print('error:', ' '.join(str(message).split()), file=sys.stderr)
  sys.exit(status)


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
  """Turns what bad input raises into one line on stderr and exit status 2."""
  try:
    yield
  except (ValueError, OSError) as error:
    fail(error)


def _main(main: Callable[[], None], _: list[str]) -> None:
  # Orbax and JAX have something to say of every checkpoint, and of every accelerator not found.
  logging.set_verbosity(logging.ERROR)
  main()


def _parse(argv: list[str]) -> list[str]:
  try:
    rest = flags.FLAGS(argv)
  except flags.Error as error:
    fail(error)
  if len(rest) > 1:
    fail(f'unexpected argument {rest[1]!r}: flags are written --name=value.')
  return rest
