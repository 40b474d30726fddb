import importlib
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

from dpoq_jax import calibrate, evaluate
from dpoq_jax import config as config_lib
from dpoq_jax.cli import flags as shared
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


def config_of(*argv: str) -> config_lib.Config:
  """The config that the flags of a training give."""
  found: list[config_lib.Config] = []
  with pytest.raises(SystemExit) as ended:
    run(shared.define_config, lambda flags: found.append(shared.parsed_config(flags)), argv=argv)
  assert ended.value.code == 0
  return found[0]


OPTIONAL = [
  ('data.image_size', 224), ('data.dir', '/x'), ('data.test_split', 'x'), ('model.width', 8),
  ('quantization.clip_init', 0.5), ('optimizer.clip_weight_decay', 1e-4), ('init_from', 'x'),
  ('optimizer.latent_weight_decay', 0.0), ('checkpoint_every', 7), ('steps_per_dispatch', 3),
]  # fmt: skip


@pytest.mark.parametrize(('name', 'given'), OPTIONAL)
def test_a_field_that_may_be_none_is_said_by_its_name(name: str, given: object):
  for text, expected in (('None', None), (str(given), given)):
    config: Any = config_of(f'--config.{name}={text}')
    for part in name.split('.'):
      config = getattr(config, part)
    assert config == expected


def test_every_field_that_may_be_none_is_tried():
  default = config_lib.get_config()
  optional = {name for name in config_lib.field_names() if accepts_none(default, name)}
  # Only a streamed set is resized; `tests/training/test_config.py` has it.
  assert optional == {name for name, _ in OPTIONAL} | {'data.resize'}


def accepts_none(default: Any, name: str) -> bool:
  fields = default.to_dict()
  *sections, last = name.split('.')
  holder = fields
  for section in sections:
    holder = holder[section]
  if isinstance(holder[last], dict):
    return False
  # A depth of None is for other models.
  holder[last] = None
  try:
    config_lib.validate(fields)
  except config_lib.ConfigError:
    return False
  return True


@pytest.mark.parametrize(
  ('flag', 'name', 'expected'),
  [
    ('companion_bits=8', 'companion_bits', (8,)),
    ('companion_bits=4,8', 'companion_bits', (4, 8)),
    ('companion_bits=(4, 8)', 'companion_bits', (4, 8)),
    ('companion_bits=()', 'companion_bits', ()),
    ('loss_weights=1,0.5,1,2', 'loss_weights', (1, 0.5, 1, 2)),
  ],
)
def test_tuples_are_given_as_python_or_with_commas(flag: str, name: str, expected: tuple):
  assert getattr(config_of(f'--config.objective.{flag}').objective, name) == expected


@pytest.mark.parametrize('given', ['data', './data', '../data', '/data'])
def test_the_data_directory_of_a_run_does_not_depend_on_the_folder_it_is_used_from(
  monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, given: str
):
  (tmp_path / 'here').mkdir()
  monkeypatch.chdir(tmp_path / 'here')
  found = config_of(f'--config.data.dir={given}').data.dir
  monkeypatch.chdir('/')
  assert found is not None
  assert pathlib.Path(found).resolve() == (tmp_path / 'here' / given).resolve()


def test_home_is_expanded_in_every_path(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path):
  monkeypatch.setenv('HOME', str(tmp_path))
  config = config_of(
    '--config.data.dir=~/a', '--config.init_from=~/b', '--config.data.name=~/c', '--config.epochs=3'
  )
  assert config.data.dir == f'{tmp_path}/a'
  assert config.init_from == f'{tmp_path}/b'
  assert config.data.name == f'{tmp_path}/c'
  flags = shared.FlagValues()
  shared.define_workdir(flags)
  shared.define_data_dir(flags)
  shared.define_operating_point(flags)
  shared.define_output(flags, 'x')
  names = ('workdir', 'data_dir', 'operating_point', 'output')
  flags(['command', *(f'--{name}=~/x' for name in names)])
  assert [flags[name].value for name in names] == [f'{tmp_path}/x'] * 4


def test_no_such_home_is_one_line(capsys: pytest.CaptureFixture[str]):
  assert started(evaluate, '--workdir=~nobody_of_that_name/x') == 2
  err = capsys.readouterr().err
  assert '~nobody_of_that_name/x' in err
  assert err.count('\n') == 1


@pytest.mark.filterwarnings(r'ignore:the load_module\(\) method is deprecated:DeprecationWarning')
@pytest.mark.parametrize('form', [['--config={}'], ['--config', '{}'], ['-config={}']])
def test_what_is_changed_may_stand_before_the_file(form: list[str]):
  file = [
    word.format(ROOT / 'dpoq_jax' / 'configs' / 'digits_resnet8.py:bits=2-4') for word in form
  ]
  for argv in (['--config.epochs=3', *file], [*file, '--config.epochs=3']):
    config = config_of(*argv)
    assert (config.epochs, config.quantization.bits) == (3, (2, 4))


@pytest.mark.filterwarnings(r'ignore:the load_module\(\) method is deprecated:DeprecationWarning')
def test_a_bad_variant_names_itself(capsys: pytest.CaptureFixture[str]):
  file = ROOT / 'dpoq_jax' / 'configs' / 'digits_resnet8.py'
  with pytest.raises(SystemExit):
    run(shared.define_config, lambda _: None, argv=[f'--config={file}:bits=2-x'])
  err = capsys.readouterr().err
  assert "variant bits=2-x: 'x' is no whole number" in err
  assert err.count('\n') == 1
