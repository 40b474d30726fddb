"""Commands: their help, and how they start and end."""

import importlib
import os
import pathlib
import re
import subprocess
import sys

import pytest

from dpoq_jax import calibrate, configs, evaluate, train
from dpoq_jax import config as config_lib
from dpoq_jax.cli.errors import user_errors
from dpoq_jax.cli.run import run
from dpoq_jax.config import variants
from tests.cli.conftest import started

ROOT = pathlib.Path(__file__).parents[2]
COMMANDS = ['train', 'evaluate', 'calibrate', 'predict', 'report', 'reproduce', 'export']


@pytest.mark.parametrize('name', COMMANDS)
def test_help_is_the_docstring_and_the_flags(name: str, capsys: pytest.CaptureFixture[str]):
  command = importlib.import_module(f'dpoq_jax.{name}')
  assert started(command, '--help') == 0
  shown = capsys.readouterr().out
  assert shown.startswith(str(command.__doc__).strip())
  assert '\n  --workdir: ' in shown


@pytest.mark.parametrize('name', [*COMMANDS, 'prepare', 'inspect.__main__'])
def test_help_needs_nothing_that_is_slow_to_import(name: str):
  code = (
    f'import sys; from dpoq_jax.cli.run import run; import dpoq_jax.{name} as command\n'
    'try:\n  run(command.define_flags, command.main, argument="x", argv=["--help"])\n'
    'except SystemExit as ended:\n'
    '  slow = {"jax", "flax", "optax", "orbax", "matplotlib", "scipy.special", "tensorflow"}\n'
    '  print(ended.code, slow & set(sys.modules))'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, text=True, capture_output=True, check=False
  )
  assert done.stdout.endswith('\n0 set()\n'), done.stderr
  # Flags are written with dashes, and there is an example.
  assert not re.search('--[a-z]+_', done.stdout)
  assert re.search(r'^    dpoq \w+ [^\[|]*$', done.stdout, re.MULTILINE) or name == 'reproduce'


def test_help_of_training_has_configs_variants_and_every_field(capsys: pytest.CaptureFixture[str]):
  assert started(train, '--help') == 0
  shown = capsys.readouterr().out
  assert all(name in shown for name in (*configs.names(), *variants.PARTS))
  fields = config_lib.field_names() - config_lib.get_config().to_dict().keys()
  fields |= {'seed', 'epochs', 'init_from'}
  assert fields <= set(re.findall(r'^  ([\w.]+)=\S+  \(.+\)$', shown, re.MULTILINE))
  assert '  epochs=30  (whole number from 1 to 1,000,000)\n      passes over' in shown
  assert '  objective.label_smoothing=0.0  (number from 0 and below 1)\n' in shown
  assert '  quantization.bits=2,4,8,16  (list of: whole number)\n' in shown
  assert '  optimizer.schedule=cosine  (steps, cosine)\n' in shown
  assert max(map(len, shown.splitlines())) <= 120


def test_several_commands_run_in_one_process(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  for command in (evaluate, calibrate, evaluate):
    assert started(command, f'--workdir={tmp_path}') == 2
    assert f'{tmp_path} holds no run' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('name', 'argv'),
  [
    ('evaluate', ['--workdir={}']), ('calibrate', ['--workdir={}']), ('report', ['--workdir={}']),
    ('export', ['--workdir={}', '--output=x']), ('inspect', ['{}']),
    ('predict', ['--workdir={}', 'x']), ('predict', ['--artifact={}', 'x']),
    ('predict', ['--pretrained=cifar10_resnet8', '{}']),
  ],
)  # fmt: skip
def test_a_folder_that_is_not_there_is_said_to_be_so(
  name: str, argv: list[str], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  missing = tmp_path / 'missing'
  command = importlib.import_module(f'dpoq_jax.{name}' + '.__main__' * (name == 'inspect'))
  with pytest.raises(SystemExit) as ended:
    run(
      command.define_flags, command.main, argument='paths', least=0, most=None,
      argv=[word.format(missing) for word in argv],
    )  # fmt: skip
  assert ended.value.code == 2
  err = capsys.readouterr().err
  assert re.match(rf'error: (there is no {missing}: give |{missing}: there is no such folder)', err)
  assert err.count('\n') == 1


def test_an_error_of_the_system_names_its_file(capsys: pytest.CaptureFixture[str]):
  with pytest.raises(SystemExit), user_errors():
    pathlib.Path('/nowhere/x').read_text()
  assert capsys.readouterr().err == 'error: /nowhere/x: no such file or directory.\n'


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
