"""Flags: what they give, and what is said of those that are wrong."""

import pathlib
import re
from typing import Any

import pytest

from dpoq_jax import config as config_lib
from dpoq_jax import configs, evaluate, reproduce, train
from dpoq_jax.cli import flags as shared
from dpoq_jax.cli.run import run
from dpoq_jax.config import reference
from tests.cli.conftest import started

DIGITS = pathlib.Path(configs.__file__).parent / 'digits_resnet8.py'


def config_of(*argv: str) -> config_lib.Config:
  """The config that the flags of a training give."""
  found: list[config_lib.Config] = []
  with pytest.raises(SystemExit) as ended:
    run(shared.define_config, lambda flags: found.append(shared.parsed_config(flags)), argv=argv)
  assert ended.value.code == 0
  return found[0]


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
  """What a training says of flags that are wrong; it is one line."""
  assert started(train, *argv) == 2
  err = capsys.readouterr().err
  assert err.startswith('error: ')
  assert err.count('\n') == 1
  return err.removeprefix('error: ')


def test_defaults_that_help_shows_are_those_of_a_run():
  default = config_lib.Config()
  for fields in reference.fields().values():
    # `()` and None can be given, too.
    given = [f'--config.{field.name}={field.default}' for field in fields]
    assert config_of(*given) == default


@pytest.mark.parametrize(
  ('argv', 'expected'),
  [
    (['--workdr=x'], '--workdr: there is no such flag; did you mean --workdir?'),
    (['--precision=x'], '--precision=x: give a whole number.'),
    ([], '--workdir=DIR is required'),
    (['x'], "unexpected argument 'x': flags are written --name=value"),
    (['--workdir=x', '--num-processes=2'], 'give --coordinator, --num-processes and --process-id'),
  ],
)
def test_bad_flags_are_one_line(argv: list[str], expected: str, capsys: pytest.CaptureFixture[str]):
  assert started(evaluate, *argv) == 2
  err = capsys.readouterr().err
  assert err.startswith('error: ')
  assert expected in err
  assert err.count('\n') == 1


@pytest.mark.filterwarnings(r'ignore:the load_module\(\) method is deprecated:DeprecationWarning')
@pytest.mark.parametrize(
  ('flag', 'expected'),
  [
    ('--config=digits_resnet8:smok', 'variant smok: there is no such part; did you mean smoke?'),
    ('--config=digits_resnet8:bits=2,4', 'variant 4: commas separate the parts of a variant'),
    ('--config.quantization.bits=2-4', 'a list is written with commas: 2,4.'),
    ('--config.optimizer.decay_epochs=3:4', 'a list is written with commas: 3,4.'),
    ('--config.quantization.activation_bits=2-4', 'one for each precision, with commas: 2,4,8,16'),
    ('--epochs=3', '--epochs: there is no such flag; did you mean --config.epochs?'),
    ('--batch-size=3', 'did you mean --config.data.batch_size?'),
    ('--wrkdir=3', '--wrkdir: there is no such flag; did you mean --workdir?'),
    ('--zzz', 'there is no such flag; there are --config, --coordinator, --distributed, --dry-run'),
    ('--config.data.bach-size=3', 'no such field; did you mean data.batch_size?'),
    ('--config.epochs=abc', '--config.epochs=abc: give a whole number.'),
    ('--config.optimizer.momentum=abc', '--config.optimizer.momentum=abc: give a number.'),
    ('--config.data.flip=maybe', '--config.data.flip=maybe: give true or false.'),
    ('--workdir', '--workdir: give it a value, --workdir=VALUE.'),
    ('--process-id=x', '--process-id=x: give a whole number.'),
    (
      '--config.model.depth=18',
      'a network resnet has 6n+2 layers, 8 to 2000: next to 18 are 14 and 20; depth=18 is of '
      'imagenet_resnet (config.model.name).',
    ),
  ],
)
def test_what_is_wrong_is_said_with_what_is_allowed(
  flag: str, expected: str, capsys: pytest.CaptureFixture[str]
):
  err = refused(capsys, flag)
  assert expected in err
  # Nothing of the libraries below.
  assert not re.search(r"Error|invalid literal|\.0=|Unknown|\bflag '", err)


@pytest.mark.parametrize('form', ['--config.data.batch-size=32', '--config.data.batch_size=32'])
def test_dashes_and_underscores_are_the_same(form: str):
  assert config_of(form).data.batch_size == 32


def test_a_choice_that_there_is_not_gets_the_nearest(capsys: pytest.CaptureFixture[str]):
  assert started(reproduce, 'table1', '--scale=papr') == 2
  assert capsys.readouterr().err == 'error: --scale=papr: did you mean paper?\n'


OPTIONAL = [
  ('data.image_size', 224), ('data.dir', '/x'), ('data.test_split', 'x'), ('model.width', 8),
  ('quantization.clip_init', 0.5), ('optimizer.clip_weight_decay', 1e-4), ('init_from', 'x'),
  ('optimizer.latent_weight_decay', 0.0), ('checkpoint_every', 7), ('steps_per_dispatch', 3),
  ('objective.companion_rings', 2),
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
  file = [word.format(f'{DIGITS}:bits=2-4') for word in form]
  for argv in (['--config.epochs=3', *file], [*file, '--config.epochs=3']):
    config = config_of(*argv)
    assert (config.epochs, config.quantization.bits) == (3, (2, 4))


@pytest.mark.filterwarnings(r'ignore:the load_module\(\) method is deprecated:DeprecationWarning')
def test_a_bad_variant_names_itself(capsys: pytest.CaptureFixture[str]):
  with pytest.raises(SystemExit):
    run(shared.define_config, lambda _: None, argv=[f'--config={DIGITS}:bits=2-x'])
  err = capsys.readouterr().err
  assert "variant bits=2-x: 'x' is no whole number" in err
  assert err.count('\n') == 1
