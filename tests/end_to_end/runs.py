"""Runs commands, small trainings above all: in a process, as a user starts them, or in this one.

A process takes three seconds to start. What two commands, or a command and a test, compare to the
last bit they must compile with the same options: all in processes, which compile fast, or all here.
"""

from collections.abc import Callable
import contextlib
import io
import json
import os
import pathlib
import runpy
import subprocess
import sys
import time
from typing import Any
from unittest import mock
import warnings

REPOSITORY = pathlib.Path(__file__).parents[2]

# Two convolutions: most runs are about something else than the network.
TINY_NET = 'digits_resnet8:model=tests.tiny_model:TinyNet,width=4'
RESNET = 'digits_resnet8:width=4'

# What `tests.fast.jit` gives to XLA, as XLA_FLAGS: a process is done with a training of those two
# convolutions after half the time.
COMPILED_FAST = '--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false'


def flags(*changes: str, bits: str = '2,4', model: str = TINY_NET) -> list[str]:
  """Returns the flags of a run of 2 epochs of 22 steps: of the embedded job, shrunk.

  Args:
    changes: Further flags, which win.
    bits: The precisions.
    model: A config file and its variant, which name the network.
  """
  return [
    # A config file comes before what is changed in it.
    f'--config={model}',
    '--config.epochs=2',
    '--config.optimizer.warmup_epochs=0.5',
    '--config.log_every=5',
    '--config.eval_every=1',
    *changes,
    # A flag of a tuple given twice adds to it, so this one cannot be changed.
    f'--config.quantization.bits={bits}',
  ]


def environment(devices: int = 1, *, optimised: bool = False) -> dict[str, str]:
  """Of a command. Compiling takes longer than what is compiled, so by default it is done fast."""
  flags = [f'--xla_force_host_platform_device_count={devices}']
  flags += [] if optimised else [COMPILED_FAST]
  # Lines are compared, so they must not be folded at the width of a terminal.
  return {**os.environ, 'XLA_FLAGS': ' '.join(flags), 'COLUMNS': '400'}


def command(
  name: str,
  *arguments: object,
  devices: int = 1,
  optimised: bool = False,
  cwd: pathlib.Path = REPOSITORY,
) -> subprocess.CompletedProcess[str]:
  """Runs `python -m dpoq_jax.NAME` to its end."""
  return subprocess.run(
    [sys.executable, '-m', f'dpoq_jax.{name}', *map(str, arguments)],
    cwd=cwd,
    env=environment(devices, optimised=optimised) | {'PYTHONPATH': str(REPOSITORY)},
    text=True,
    capture_output=True,
    check=False,
    timeout=900,
  )


def call(
  name: str, *arguments: object, cwd: pathlib.Path = REPOSITORY
) -> subprocess.CompletedProcess[str]:
  """Runs `python -m dpoq_jax.NAME` to its end in this process."""
  argv, out, err = [name, *map(str, arguments)], io.StringIO(), io.StringIO()
  status: Any = None
  with (
    contextlib.chdir(cwd),
    contextlib.redirect_stdout(out),
    contextlib.redirect_stderr(err),
    mock.patch.object(sys, 'argv', argv),
    mock.patch.dict(os.environ, COLUMNS='400'),
    # Third parties' own: a process shows those that concern users alone, and as errors they would
    # end a command.
    warnings.catch_warnings(action='ignore'),
  ):
    try:
      runpy.run_module(f'dpoq_jax.{name}', run_name='__main__')
    except SystemExit as ended:
      status = ended.code
  return subprocess.CompletedProcess(argv, status, out.getvalue(), err.getvalue())


def status_of(name: str, *arguments: object) -> int:
  """Runs a command in this process, shows what it prints, and returns its exit status."""
  done = call(name, *arguments)
  print(done.stdout, end='')
  print(done.stderr, end='', file=sys.stderr)
  return done.returncode


def refused(name: str, *arguments: object) -> tuple[int, str]:
  """Returns the exit status and stderr of a command that its flags, or what they name, stop."""
  done = call(name, *arguments)
  return done.returncode, done.stderr


def start(
  workdir: pathlib.Path,
  *changes: str,
  devices: int = 1,
  bits: str = '2,4',
  model: str = TINY_NET,
  cwd: pathlib.Path = REPOSITORY,
) -> subprocess.Popen[str]:
  """Starts a small `python -m dpoq_jax.train`, its output kept in pipes."""
  return subprocess.Popen(
    [
      *(sys.executable, '-m', 'dpoq_jax.train', f'--workdir={workdir}'),
      *flags(*changes, bits=bits, model=model),
    ],
    cwd=cwd,
    env=environment(devices) | {'PYTHONPATH': str(REPOSITORY)},
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )


def finish(process: subprocess.Popen[str], timeout: float = 300) -> tuple[int, str, str]:
  """Exit status, stdout and stderr of a process that ends by itself."""
  out, err = process.communicate(timeout=timeout)
  return process.returncode, out, err


def train(
  workdir: pathlib.Path,
  *changes: str,
  devices: int = 1,
  bits: str = '2,4',
  model: str = TINY_NET,
) -> tuple[int, str, str]:
  """Runs a small training to its end."""
  return finish(start(workdir, *changes, devices=devices, bits=bits, model=model))


def wait_until(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
  """Waits for something the process does; fails with its output if it ends first."""
  deadline = time.monotonic() + 300
  while not happened():
    if process.poll() is not None or time.monotonic() > deadline:
      process.kill()
      raise AssertionError(process.communicate())
    time.sleep(0.002)


def rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """Rows of metrics that are complete."""
  path = workdir / 'metrics.jsonl'
  lines = path.read_text().splitlines(keepends=True) if path.exists() else []
  return [json.loads(line) for line in lines if line.endswith('\n')]


def steps_saved(workdir: pathlib.Path) -> list[int]:
  """Steps of the checkpoints that are whole."""
  folder = workdir / 'checkpoints'
  return sorted(int(path.name) for path in folder.glob('*') if path.name.isdigit())


def results(workdir: pathlib.Path) -> dict[str, Any]:
  """The summary without what depends on the clock."""
  summary = json.loads((workdir / 'summary.json').read_text())
  del summary['examples_per_second']
  return summary
