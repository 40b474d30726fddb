"""Shows errors and warnings to the user of a command: one line each, on stderr."""

from collections.abc import Iterator
import contextlib
import sys
from typing import NoReturn

from dpoq_jax.runtime import terminal


def warn(message: str) -> None:
  """Prints a warning on stderr."""
  _print(f'warning: {message}')


def fail(message: object, status: int = 2) -> NoReturn:
  """Prints one line on stderr and exits with `status`."""
  lines = str(message).strip().splitlines()
  # Config flags put a whole traceback into the message of what a config file raises.
  line = lines[-1] if any(each.startswith('Traceback') for each in lines) else ' '.join(lines)
  _print(f'error: {line}')
  sys.exit(status)


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
  """Turns the errors that bad input raises into one line on stderr and exit status 2."""
  try:
    yield
  except BrokenPipeError:
    raise
  except (ValueError, OSError) as error:
    fail(error)


def _print(text: str) -> None:
  """Prints one line on stderr, whatever the names and values in it."""
  print(terminal.one_line(text), file=sys.stderr)
