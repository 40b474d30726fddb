"""Starts a benchmark: bad input, and what is not installed, end in one line, as in commands."""

from collections.abc import Callable
import shutil
import sys
from typing import NoReturn

from absl import flags, logging
import rich.console

from dpoq_jax.cli import run, spelling
from dpoq_jax.cli.errors import fail, user_errors

# What brings a module that is in no requirements of users, where that is an extra of this project.
_EXTRAS = {'onnxruntime': "'dpoq_jax[onnx]'"}
# Columns that the widest table needs; a pipe has 80, at which rich cuts its headers.
_COLUMNS = 120


def start(main: Callable[[list[str]], None]) -> NoReturn:
  """Parses the flags of a benchmark, runs it and exits.

  Args:
    main: the benchmark; the docstring of its module is the help text. It imports what is in no
      requirements file of users, so that help needs none of it.

  Raises:
    SystemExit: always; status 0 for `--help`, 2 for input that is bad or an extra that is missing.
  """
  if {'--help', '-help', '-h'} & set(sys.argv[1:]):
    shown = flags.FlagValues()
    for flag in flags.FLAGS.get_key_flags_for_module(sys.modules[main.__module__]):
      shown[flag.name] = flag
    print(run.help_text(main, shown))
    sys.exit(0)
  logging.use_absl_handler()
  try:
    words = flags.FLAGS([sys.argv[0], *spelling.with_underscores(sys.argv[1:])])[1:]
    if words:
      fail(f'unexpected argument {words[0]!r}: flags are written --name=value.')
    with user_errors():
      main([])
  except flags.Error as error:
    fail(spelling.explained(error, flags.FLAGS))
  except ModuleNotFoundError as error:
    package = _EXTRAS.get(error.name or '', error.name)
    fail(f'{error.name} is not installed, which this benchmark needs: pip install {package}.')
  except KeyboardInterrupt:
    fail('interrupted.', status=130)
  sys.exit(0)


def console() -> rich.console.Console:
  """Returns a console that shows whole tables, also in a pipe."""
  return rich.console.Console(width=max(shutil.get_terminal_size().columns, _COLUMNS))
