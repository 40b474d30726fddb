from pathlib import Path
import shlex
import signal
import subprocess
import sys
import time

import pytest

from tests.launch import stubs

SWEEP = stubs.ROOT / 'launch/sweep.py'
GRID = ['--grid', 'config.seed', '0', '1']


def sweep(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
  return stubs.run(sys.executable, SWEEP, '--workdir=sweep', *arguments, cwd=tmp_path)


def trainer(tmp_path: Path, text: str) -> list[str]:
  """A command that notes what it is given, then runs `text`."""
  stubs.executable(tmp_path / 'train', f'echo "$*" >> calls\n{text}')
  return [str(tmp_path / 'train')]


def calls(tmp_path: Path) -> list[str]:
  return (tmp_path / 'calls').read_text().splitlines()


def test_dry_run_prints_a_command_for_each_combination(tmp_path: Path):
  done = sweep(
    tmp_path,
    *GRID,
    '--grid',
    'config',
    'cifar10_resnet20:system=joint,merge=psbn',
    'digits_resnet8',
    '--dry-run',
    '--',
    'sbatch',
    '--job-name={name}',
    'launch/slurm.sbatch',
    '--x=a b',
  )
  assert done.returncode == 0, done.stderr
  assert not list(tmp_path.iterdir())
  summary, *lines = done.stdout.splitlines()
  assert summary == 'sweep: 4 points, 0 of them done'
  commands = [shlex.split(line) for line in lines]
  # A config file comes before what overrides its fields.
  assert commands[0] == [
    'sbatch',
    '--job-name=p-config-cifar10-resnet20-syste-' + commands[0][1][-8:],
    'launch/slurm.sbatch',
    '--x=a b',
    '--config=cifar10_resnet20:system=joint,merge=psbn',
    '--config.seed=0',
    '--workdir=sweep/config=cifar10_resnet20-system=joint-merge=psbn,seed=0',
  ]
  assert commands[3][1:] == [
    '--job-name=config-digits-resnet8-seed-1',
    'launch/slurm.sbatch',
    '--x=a b',
    '--config=digits_resnet8',
    '--config.seed=1',
    '--workdir=sweep/config=digits_resnet8,seed=1',
  ]
  assert len({command[1] for command in commands}) == 4


def test_flags_of_the_same_last_name_are_told_apart(tmp_path: Path):
  grid = ['--grid', 'config.model.name', 'vgg', '--grid', 'config.data.name', 'digits']
  done = sweep(tmp_path, *grid, '--dry-run', '--', 'train', '--config.model.depth=11')
  assert done.stdout.endswith('--workdir=sweep/config.model.name=vgg,config.data.name=digits\n')


@pytest.mark.parametrize(
  'config',
  [
    ['--config', 'cifar10_resnet8_cpu'],
    ['--config.data.flip', '--config.data.name', 'cifar10', '-config.data.flip=false'],
  ],
)
def test_a_value_may_be_a_word_of_its_own(tmp_path: Path, config: list[str]):
  # Not of the embedded digits, which are 8 pixels wide.
  grid = ['--grid', 'config.data.resize', 'None', '--grid', 'config.optimizer.warmup_epochs', '0']
  done = sweep(tmp_path, *grid, '--dry-run', '--', 'train', *config, '--config.epochs', '2')
  assert done.returncode == 0, done.stderr
  assert f'train {" ".join(config)} --config.epochs 2 --config.data.resize=None' in done.stdout
  done = sweep(tmp_path, *grid, '--dry-run', '--', 'train', *config, '--config.epochs', '0')
  assert 'epochs=0' in done.stderr


def test_a_tilde_is_the_home_directory_as_training_has_it(tmp_path: Path):
  (tmp_path / 'runs/seed=1').mkdir(parents=True)
  (tmp_path / 'runs/seed=1/summary.json').touch()
  arguments = ['--workdir=~/runs', *GRID, '--dry-run', '--', 'train']
  done = stubs.run(sys.executable, SWEEP, *arguments, cwd=tmp_path, HOME=str(tmp_path))
  assert done.stdout.splitlines()[1:] == [f'train --config.seed=0 --workdir={tmp_path}/runs/seed=0']


@pytest.mark.parametrize(
  'command',
  [
    ['bash', 'launch/multiprocess.sh', '2', '--dry-run', '--'],
    ['bash', 'launch/slurm.sbatch', '--dry-run'],
    ['launch/kubernetes.py', '--name={name}', '--image=i', '--claim=c', '--dry-run', '--'],
    ['bash', 'launch/tpu_vm.sh', '--name={name}', '--zone=z', '--share=h:/s', '--dry-run', '--'],
  ],
  ids=lambda command: Path(command[1] if command[0] == 'bash' else command[0]).name,
)
def test_launch_scripts_take_the_points(command: list[str]):
  if command[0] == 'launch/kubernetes.py':
    command = [sys.executable, *command]
  arguments = ['--workdir=/mnt/share/sweep', '--grid', 'config.seed', '7', '--', *command]
  done = stubs.run(sys.executable, SWEEP, *arguments, cwd=stubs.ROOT)
  assert done.returncode == 0, done.stderr
  assert '--config.seed=7' in done.stdout
  assert '/mnt/share/sweep/seed=7' in done.stdout


def test_runs_what_is_not_done_and_goes_on_after_a_failure(tmp_path: Path):
  command = trainer(tmp_path, 'case $* in *seed=0*) exit 5 ;; esac')
  (tmp_path / 'sweep/seed=1').mkdir(parents=True)
  (tmp_path / 'sweep/seed=1/summary.json').touch()
  done = sweep(
    tmp_path, '--grid', 'config.seed', '0', '1', '2', '--', *command, '--config.epochs=3'
  )
  assert done.returncode == 1
  assert calls(tmp_path) == [
    f'--config.epochs=3 --config.seed={seed} --workdir=sweep/seed={seed}' for seed in (0, 2)
  ]
  assert done.stderr == 'sweep: seed=0 failed with status 5.\n'


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_reaches_the_command_in_progress_and_ends_the_sweep(tmp_path: Path, number: int):
  command = trainer(
    tmp_path,
    "trap 'echo saved; exit 143' TERM; touch started\n"
    'i=0; while [ $i -lt 300 ]; do sleep 0.1; i=$((i + 1)); done',
  )
  process = subprocess.Popen(
    [sys.executable, SWEEP, '--workdir=sweep', *GRID, '--', *command],
    cwd=tmp_path,
    stdout=subprocess.PIPE,
    text=True,
  )
  deadline = time.monotonic() + 30
  while not (tmp_path / 'started').exists():
    assert time.monotonic() < deadline
    assert process.poll() is None
    time.sleep(0.05)
  process.send_signal(number)
  output, _ = process.communicate(timeout=30)
  assert process.returncode == 143
  assert output.endswith('saved\n')
  assert len(calls(tmp_path)) == 1


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ([*GRID], 'give a command after --'),
    (['--grid', 'config.seed', '--', 'train'], '--grid config.seed'),
    (['--grid', 'config.sed', '1', '--', 'train'], 'did you mean seed?'),
    (
      ['--grid', 'config.epochs', '2', '0', '--', 'train'],
      'epochs=0: config.epochs=0: input should be',
    ),
    (
      ['--grid', 'config.seed', '1', '1', '--', 'train'],
      'two points of the grid are called seed=1',
    ),
    ([*GRID, '--', 'train', '--config=no/such.py'], 'such.py'),
  ],
)
def test_mistakes_are_found_before_anything_is_run(
  tmp_path: Path, arguments: list[str], message: str
):
  done = sweep(tmp_path, *arguments)
  assert done.returncode == 2
  assert message in done.stderr.splitlines()[-1]
