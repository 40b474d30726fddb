"""Shows errors and warnings to the user of a command: one line each, on stderr."""

from collections.abc import Iterator
import contextlib
import re
import sys
from typing import NoReturn

from dpoq_jax.data.tfds_directory import DataNotFoundError
from dpoq_jax.runtime import terminal

# Errors whose message alone is for the user.
_OF_USERS = re.compile(r'^(?:[\w.]+\.)?(?:Value|Config|FileNotFound|OS)Error: ')


def warn(message: str) -> None:
  """Prints a warning on stderr."""
  _print(f'warning: {message}')


def fail(message: object, status: int = 2) -> NoReturn:
  """Prints one line on stderr and exits with `status`."""
  if isinstance(message, OSError) and message.filename and message.strerror:
    # Python's own form has the number of the error, and quotes.
    message = f'{message.filename}: {message.strerror[0].lower()}{message.strerror[1:]}.'
  lines = str(message).strip().splitlines()
  line = ' '.join(lines)
  # Config flags put a whole traceback into the message of what a config file raises.
  if any(each.startswith('Traceback') for each in lines):
    line = _OF_USERS.sub('', lines[-1])
  _print(f'error: {line}')
  sys.exit(status)


@contextlib.contextmanager
def user_errors(*, data_flag: str | None = None) -> Iterator[None]:
  """Turns the errors that bad input raises into one line on stderr and exit status 2.

  Args:
    data_flag: flag by which the command is told where data sets are; None is that of `train`.
  """
  try:
    yield
  except BrokenPipeError:
    raise
  except DataNotFoundError as error:
    if data_flag is None:
      fail(error)
    prepare = f', or run {error.prepare}' if error.prepare else ''
    fail(f'{error.what}: give {data_flag}=DIR, where it is now{prepare}')
  except (ValueError, OSError) as error:
    fail(error)


def _print(text: str) -> None:
  """Prints one line on stderr, whatever the names and values in it."""
  print(terminal.one_line(text), file=sys.stderr)
