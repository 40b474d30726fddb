"""What is said of a run before, while and after it goes on."""

import io
import json
import pathlib
import shlex

import pytest

from dpoq_jax import config as config_lib
from dpoq_jax.cli import subcommands
from dpoq_jax.config import variants
from dpoq_jax.runtime.console import Console
from dpoq_jax.training import experiment as experiment_lib
from dpoq_jax.training import progress, summary
from tests.end_to_end import runs


class Clock:
  """Stands in for the time that passes."""

  def __init__(self) -> None:
    self.now = 1000.0

  def monotonic(self) -> float:
    return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
  clock = Clock()
  monkeypatch.setattr(progress, 'time', clock)
  return clock


def config_of(variant: str) -> config_lib.Config:
  return config_lib.validate(variants.apply(config_lib.get_config(), variant))


def test_the_expected_time_is_said_once_it_is_known(clock: Clock):
  out = io.StringIO()
  display = progress.Progress(Console(file=out))
  with display.shown(10, 110):
    # The first step is slow, and does not count.
    for step, seconds in ((11, 60.0), (12, 0.5), (20, 1.0), (31, 2.5), (41, 2.0)):
      clock.now += seconds
      display.step(step)
  assert out.getvalue() == 'the 79 steps left take about 0:00:16\n'


def test_compiling_says_how_long_it_took(clock: Clock):
  out = io.StringIO()
  display = progress.Progress(Console(file=out))
  with display.compiling():
    assert out.getvalue() == 'compiling the training step ...\n'
    clock.now += 12.34
  assert out.getvalue().splitlines()[1:] == ['compiled in 12.3 s']
  with pytest.raises(ValueError, match='no memory'), display.compiling():
    raise ValueError('no memory')
  assert len(out.getvalue().splitlines()) == 3


@pytest.mark.parametrize(
  ('variant', 'commands'),
  [
    ('', ['calibrate', 'predict', 'report']),
    ('bits=2-4,system=separate', ['calibrate', 'predict', 'report']),
    ('system=individual,bits=4', ['predict']),
    ('system=shared', ['predict']),
  ],
)
def test_the_end_names_commands_that_there_are(variant: str, commands: list[str]):
  said, *lines = progress.ending(config_of(variant), pathlib.Path("my runs/it's")).splitlines()
  assert said == "the run is in my runs/it's; next:"
  words = [shlex.split(line) for line in lines]
  assert [(dpoq, name) for dpoq, name, *_ in words] == [('dpoq', name) for name in commands]
  assert all("--workdir=my runs/it's" in line for line in words)
  assert set(commands) <= set(subcommands._COMMANDS)


def test_the_plan_is_known_before_data_and_jax_are():
  config = config_of('bits=2-4')
  assert progress.plan(config, pathlib.Path('r')) == (
    'training resnet8 at 2, 4 bits on digits; the run is in r'
  )
  data = config.data.model_copy(update={'name': 'cifar10', 'dir': '/d'})
  moved = config.model_copy(update={'data': data})
  assert 'on cifar10 in /d;' in progress.plan(moved, pathlib.Path('r'))


def test_the_header_counts_what_is_trained():
  config = config_of('smoke')
  data = config.data.model_copy(update={'holdout': 37})
  built = experiment_lib.build(config.model_copy(update={'data': data}))
  first, test, steps, device = progress.header(built).split('; ')
  assert first == '1,400 training examples (37 more held out)'
  assert test == '360 test examples (test)'
  assert steps == f'{built.total_steps:,} steps of 8 examples in 1 epochs'
  assert device.endswith('x cpu')


def test_every_column_of_the_summary_is_explained():
  committed = next((runs.REPOSITORY / 'results' / 'cpu' / 'runs').glob('*/summary.json'))
  table = summary.table({**json.loads(committed.read_text()), 'split': 'test'})
  explained = [line.partition(':')[0] for line in str(table.caption).splitlines()]
  heads = [str(column.header).removesuffix(' %') for column in table.columns]
  assert explained == heads[1:]
  assert heads[0] == 'bits'


def test_a_data_set_in_brackets_is_printed_as_it_is():
  name, out = '/data/[bold]/x', io.StringIO()
  said = {'model': 'vgg11', 'dataset': name, 'split': 'train[:9%]', 'steps': 3, 'precisions': {}}
  Console(file=out, width=120).print(summary.table(said))
  assert out.getvalue().splitlines()[0].strip() == f'vgg11 on {name} (train[:9%]), step 3'
