"""Keeps compiled programs from one start of a command to the next."""

import hashlib
import os
import pathlib
import platform

_VARIABLE = 'JAX_COMPILATION_CACHE_DIR'


def turn_on() -> None:
  """Lets JAX keep compiled programs in the user's cache directory; call it before importing JAX.

  JAX's own variables have the last word: `JAX_COMPILATION_CACHE_DIR` is another directory,
  `JAX_ENABLE_COMPILATION_CACHE=false` none at all. A directory that cannot be written is no error:
  then every start compiles.
  """
  if _VARIABLE in os.environ:
    return
  try:
    directory = cache_directory()
    directory.mkdir(parents=True, exist_ok=True)
  except (OSError, RuntimeError):  # The latter: no home directory.
    return
  if os.access(directory, os.W_OK | os.X_OK):
    os.environ[_VARIABLE] = str(directory)


def cache_directory() -> pathlib.Path:
  """Returns `$XDG_CACHE_HOME/dpoq_jax/MACHINE`, in `~/.cache` by default.

  Raises:
    RuntimeError: if there is neither that variable nor a home directory.
  """
  # Relative paths are to be ignored, says the XDG specification.
  given = pathlib.Path(os.environ.get('XDG_CACHE_HOME', ''))
  root = given if given.is_absolute() else pathlib.Path.home() / '.cache'
  return root / 'dpoq_jax' / _machine()


def _machine() -> str:
  """Names what machine code depends on, as machines that differ may share a home directory.

  A program compiled for instructions that another processor lacks would end the process there.
  """
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    lines = [platform.processor()]
  # `Features` on ARM.
  wanted = ('vendor_id', 'cpu family', 'model', 'flags', 'Features')
  facts = sorted({line for line in lines if line.split(':')[0].strip() in wanted}) or lines
  digest = hashlib.sha256('\n'.join(facts).encode()).hexdigest()
  return f'{platform.machine()}-{digest[:12]}'
