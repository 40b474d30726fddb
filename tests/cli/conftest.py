"""Starts commands in this process."""

import pytest

from dpoq_jax.cli.run import run


def started(command, *argv: str) -> int:
  """Runs a command to its end; returns the exit status."""
  with pytest.raises(SystemExit) as ended:
    run(command.define_flags, command.main, argv=argv)
  assert isinstance(ended.value.code, int)
  return ended.value.code
