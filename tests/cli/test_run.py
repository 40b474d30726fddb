import importlib
import os
import pathlib
import subprocess
import sys

import pytest

from dpoq_jax import calibrate, evaluate
from dpoq_jax.cli.run import run

ROOT = pathlib.Path(__file__).parents[2]
COMMANDS = ['train', 'evaluate', 'calibrate', 'predict', 'report', 'reproduce', 'export']


def started(command, *argv: str) -> int:
  with pytest.raises(SystemExit) as ended:
    run(command.define_flags, command.main, argv=argv)
  assert isinstance(ended.value.code, int)
  return ended.value.code


@pytest.mark.parametrize('name', COMMANDS)
def test_help_is_the_docstring_and_the_flags(name: str, capsys: pytest.CaptureFixture[str]):
  command = importlib.import_module(f'dpoq_jax.{name}')
  assert started(command, '--help') == 0
  shown = capsys.readouterr().out
  assert shown.startswith(str(command.__doc__).strip())
  assert '\n  --workdir: ' in shown


def test_several_commands_run_in_one_process(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  for command in (evaluate, calibrate, evaluate):
    assert started(command, f'--workdir={tmp_path}') == 2
    assert f'{tmp_path} holds no run' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('argv', 'expected'),
  [
    (['--workdr=x'], "Unknown command line flag 'workdr'. Did you mean: workdir"),
    (['--precision=x'], 'flag --precision=x'),
    ([], '--workdir=DIR is required'),
    (['x'], "unexpected argument 'x': flags are written --name=value"),
    (['--workdir=x', '--num-processes=2'], 'give --coordinator, --num_processes and --process_id'),
  ],
)
def test_bad_flags_are_one_line(argv: list[str], expected: str, capsys: pytest.CaptureFixture[str]):
  assert started(evaluate, *argv) == 2
  err = capsys.readouterr().err
  assert err.startswith('error: ')
  assert expected in err
  assert err.count('\n') == 1


def test_the_words_of_the_process_are_left_as_they_were():
  before = list(sys.argv)
  started(evaluate, '--workdir=x')
  assert sys.argv == before


@pytest.mark.parametrize('form', [['-m', 'dpoq_jax.evaluate'], ['dpoq_jax/evaluate.py']])
def test_a_command_starts_as_module_and_as_file(form: list[str]):
  # As a file, the folder of the package is where Python looks first: nothing in it may hide a
  # module of the standard library.
  done = subprocess.run(
    [sys.executable, *form, '--help'],
    cwd=ROOT,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    text=True,
    capture_output=True,
    check=False,
  )
  assert (done.returncode, done.stderr) == (0, '')


def test_no_module_of_the_package_hides_one_of_the_standard_library():
  regular = {path.stem for path in (ROOT / 'dpoq_jax').glob('*.py')}
  regular |= {path.parent.name for path in (ROOT / 'dpoq_jax').glob('*/__init__.py')}
  assert not regular & sys.stdlib_module_names


def ended(main: str) -> tuple[int, str]:
  """Exit status and stderr of a process whose command is the function that `main` names."""
  program = f'import os, signal; from dpoq_jax.cli.run import run; run({main})'
  done = subprocess.run(
    [sys.executable, '-c', program], cwd=ROOT, text=True, capture_output=True, check=False
  )
  return done.returncode, done.stderr


@pytest.mark.parametrize(
  'functions',
  [
    'lambda flags: os.kill(os.getpid(), 2), lambda flags: 0',
    'lambda flags: 0, lambda flags: os.kill(os.getpid(), 2)',
  ],
  ids=['while flags are read', 'while it runs'],
)
def test_an_interrupt_is_one_line(functions: str):
  # A test in the background has interrupts ignored.
  reset = 'signal.signal(2, signal.default_int_handler) and '
  assert ended(functions.replace('os.kill', reset + 'os.kill')) == (130, 'error: interrupted.\n')


def test_a_crash_in_native_code_ends_with_a_stack():
  status, err = ended('lambda flags: 0, lambda flags: os.kill(os.getpid(), signal.SIGSEGV)')
  assert status == -11
  assert 'Fatal Python error: Segmentation fault' in err


def test_inspect_is_still_a_command():
  done = subprocess.run(
    [sys.executable, '-m', 'dpoq_jax.inspect', 'no_such_folder'],
    cwd=ROOT, text=True, capture_output=True, check=False,
  )  # fmt: skip
  assert done.returncode == 2
  assert 'no_such_folder' in done.stderr
