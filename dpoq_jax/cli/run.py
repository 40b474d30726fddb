"""Starts a command: defines its flags, parses them, runs it."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import faulthandler
import inspect
import os
import sys
import textwrap
import threading
from typing import Any, NoReturn
import warnings

from absl import flags as absl_flags
from absl import logging

from dpoq_jax.cli import spelling
from dpoq_jax.cli.errors import fail, user_errors, warn
from dpoq_jax.data import corrupt_records
from dpoq_jax.runtime import compilation_cache

FlagValues = absl_flags.FlagValues


def run(
  define_flags: Callable[[FlagValues], None],
  main: Callable[..., None],
  argument: str | None = None,
  least: int = 1,
  most: int | None = 1,
  argv: Sequence[str] | None = None,
) -> NoReturn:
  """Parses the flags of a command, runs it and exits.

  Every call has flags of its own, so several commands can run in one process. Flags that cannot be
  parsed are one line on stderr and exit status 2, `--help` is exit status 0.

  Args:
    define_flags: defines the flags of the command.
    main: the command, a function of the parsed flags, and of the arguments beside them; the
      docstring of its module is the help text.
    argument: what an argument beside the flags is, if the command takes any.
    least: fewest arguments.
    most: most arguments; None for any number.
    argv: the words after the command's name; those of the process by default.

  Raises:
    SystemExit: always, with the exit status.
  """
  # A crash in native code ends with the stacks of the threads, where stderr is a file to write to.
  with contextlib.suppress(RuntimeError, OSError):
    faulthandler.enable()
  flags = FlagValues()
  with _arguments(argv), _flag_errors(flags):
    define_flags(flags)
    if {'--help', '-help', '-h'} & set(sys.argv[1:]):
      print(help_text(main, flags))
      sys.exit(0)
    words = flags(sys.argv)[1:]
  most = most if argument else 0
  if most is not None and len(words) > most:
    fail(f'unexpected argument {words[most]!r}: flags are written --name=value.')
  if argument and len(words) < least:
    fail(f'give {argument}.')
  _run(main, flags, words)
  sys.exit(0)


def _run(main: Callable[..., None], flags: FlagValues, words: Sequence[str]) -> None:
  """Runs `main`, and turns what ends it early into one line and an exit status."""
  # Libraries read absl's own flags, whose defaults hold.
  absl_flags.FLAGS.mark_as_parsed()
  logging.use_absl_handler()
  # Orbax and JAX log something for every checkpoint, and for every accelerator not found. What they
  # log as an error they also raise.
  logging.set_verbosity(logging.FATAL)
  compilation_cache.turn_on()
  sys.excepthook = _in_main_thread(sys.excepthook)
  try:
    with warnings.catch_warnings():
      # Pillow warns, in two lines, of odd metadata; for what it cannot read it raises.
      warnings.filterwarnings('ignore', module=r'PIL\.')
      warnings.showwarning = lambda message, *_, **__: warn(str(message))
      main(flags, *words)
    sys.stdout.flush()
  except KeyboardInterrupt:
    fail('interrupted.', status=130)
  except corrupt_records.CorruptRecordsError as error:
    # No fault of the flags.
    fail(error, status=1)
  except BrokenPipeError:
    # The reader has gone (`| head`). Python flushes stdout once more as it exits.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(141)


def _in_main_thread(hook: Callable[..., object]) -> Callable[..., None]:
  """Returns an exception hook for the main thread alone.

  TensorStore's native threads, too, show errors by it, pages of them when a disk is full; each is
  raised in the main thread as well.
  """

  def show(*error: Any) -> None:
    if threading.current_thread() is threading.main_thread():
      hook(*error)

  return show


@contextlib.contextmanager
def _arguments(argv: Sequence[str] | None) -> Iterator[None]:
  """Sets the words of the process while flags are parsed: config flags read them from there."""
  given = sys.argv
  sys.argv = [given[0], *spelling.with_underscores(given[1:] if argv is None else argv)]
  try:
    yield
  finally:
    sys.argv = given


@contextlib.contextmanager
def _flag_errors(flags: FlagValues) -> Iterator[None]:
  """Turns any error into one line: a config file is a program, which can raise anything."""
  try:
    with user_errors():
      yield
  except KeyboardInterrupt:
    fail('interrupted.', status=130)
  except absl_flags.Error as error:
    fail(spelling.explained(error, flags))
  except Exception as error:
    fail(f'{type(error).__name__}: {error}')


def help_text(main: Callable[..., None], flags: FlagValues) -> str:
  """Returns the docstring of a command's module, and its flags, those of a config included."""
  lines = [(sys.modules[main.__module__].__doc__ or '').strip()]
  shown = [name for name in sorted(flags) if not name.startswith('config.')]
  if shown:
    lines += ['', 'Flags:']
  for name in shown:
    flag = flags[name]
    # That of --config is a whole config.
    is_plain = isinstance(flag.default, bool | int | float | str)
    default = str(flag.default).lower() if isinstance(flag.default, bool) else flag.default
    end = f' (default: {default})' if is_plain else ''
    lines += _wrapped(f'{spelling.shown(name)}: {flag.help}{end}')
  if 'config' in flags:
    lines += _config_help()
  return '\n'.join(lines)


def _config_help() -> list[str]:
  """Returns what a variant may be, and all fields of a config with bounds and defaults."""
  from dpoq_jax.config import reference, variants

  described = inspect.getdoc(variants.apply) or ''
  table = described.partition('separated by commas:\n')[2].partition('\n\nReturns:')[0]
  lines = ['', 'Variants, after the colon of --config=NAME:VARIANT, separated by commas:', '']
  lines += textwrap.indent(textwrap.dedent(table.strip('\n')), '  ').splitlines()
  lines += ['', 'Fields, each set by --config.FIELD=VALUE; lists are written with commas, 2,4,8.']
  for section, fields in reference.fields().items():
    lines += ['', section]
    for field in fields:
      lines.append(f'  {field.name}={field.default}  ({field.allowed})')
      lines += textwrap.wrap(field.what, 98, initial_indent=' ' * 6, subsequent_indent=' ' * 6)
  return lines


def _wrapped(text: str) -> list[str]:
  """Returns an entry of a list in lines of bearable length; no name is split at its dashes."""
  return textwrap.wrap(
    text, 98, initial_indent='  ', subsequent_indent='      ', break_on_hyphens=False
  )
