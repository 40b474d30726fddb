from pathlib import Path
import re
import shlex
import signal
import subprocess
import time

import pytest

from tests.launch import stubs

STEP = [
  'srun',
  '--kill-on-bad-exit=1',
  '--gpu-bind=none',
  '--cpus-per-task=12',
  '--open-mode=append',
  '--output=runs/x/logs/%j-%t.log',
  '.venv/bin/python',
  '-m',
  'dpoq_jax.train',
  '--distributed',
]
FLAGS = ['--workdir=runs/x', '--config=a:b', '--x=a b']


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
  """A checkout, and beside it the commands of a cluster."""
  root = stubs.set_up_checkout(tmp_path, 'exit 1')
  commands = tmp_path / 'bin'
  stubs.executable(
    commands / 'srun',
    'printf "%s\\n" srun "$@" "proxy:$https_proxy" > srun.txt; exit "${STATUS:-0}"',
  )
  stubs.executable(commands / 'squeue', 'echo "$STATE"')
  stubs.executable(commands / 'scontrol', 'echo "scontrol $*"')
  return root


def job(checkout: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
  """Runs the script as SLURM does: a copy of it, from elsewhere."""
  spool = checkout.parent / 'slurm_script'
  spool.write_text((checkout / 'launch/slurm.sbatch').read_text())
  environment = {
    'SLURM_JOB_ID': '7',
    'SLURM_SUBMIT_DIR': str(checkout),
    'SLURM_NTASKS_PER_NODE': '8',
    'SLURM_GPUS_PER_NODE': 'h100:8',
    'SLURM_CPUS_PER_TASK': '12',
    'STATE': 'RUNNING',
    'https_proxy': 'proxy:1',
    **environment,
  }
  return stubs.run(
    'bash', spool, *flags, cwd=checkout.parent, path=checkout.parent / 'bin', **environment
  )


def test_dry_run_prints_what_a_job_runs_and_leaves_no_trace(checkout: Path):
  before = sorted(checkout.parent.rglob('*'))
  done = stubs.run(
    'bash', checkout / 'launch/slurm.sbatch', '--dry-run', *FLAGS, cwd=checkout.parent
  )
  assert done.returncode == 0, done.stderr
  assert sorted(checkout.parent.rglob('*')) == before
  lines = [line for line in done.stdout.splitlines() if not line.startswith('#SBATCH')]
  assert lines[:2] == ['bash launch/setup.sh cuda', 'mkdir -p -- runs/x/logs']
  assert shlex.split(lines[2]) == STEP + FLAGS


def test_a_tilde_is_the_home_directory_as_training_has_it(checkout: Path):
  script, flag = checkout / 'launch/slurm.sbatch', '--workdir=~/a run'
  done = stubs.run('bash', script, '--dry-run', flag, cwd=checkout.parent, HOME='/h')
  made, step = done.stdout.splitlines()[-3:-1]
  assert shlex.split(made)[-1] == '/h/a run/logs'
  assert '--output=/h/a run/logs/%j-%t.log' in shlex.split(step)


def test_options_ask_for_a_process_per_gpu_a_warning_and_a_place_in_the_queue(checkout: Path):
  script = (checkout / 'launch/slurm.sbatch').read_text()
  options = dict(re.findall(r'^#SBATCH --([\w-]+)=?(.*)$', script, re.MULTILINE))
  assert options['ntasks-per-node'] == options['gpus-per-node']
  # To the processes: B: would be to the script alone.
  assert options['signal'].startswith('TERM@')
  assert 'requeue' in options
  assert options['open-mode'] == 'append'
  # Options end with the first command.
  assert script.rindex('\n#SBATCH') < script.index('\nset -euo pipefail')


def test_job_runs_one_step(checkout: Path):
  done = job(checkout, *FLAGS)
  assert done.returncode == 0, done.stderr
  assert (checkout / 'srun.txt').read_text().splitlines() == [*STEP, *FLAGS, 'proxy:']
  assert (checkout / 'runs/x/logs').is_dir()
  assert 'scontrol' not in done.stdout


@pytest.mark.parametrize(
  ('status', 'environment', 'requeued'),
  [
    pytest.param(143, {}, True, id='stopped before the time limit, or preempted'),
    pytest.param(143, {'STATE': 'CANCELLED'}, False, id='cancelled'),
    pytest.param(143, {'STATE': ''}, False, id='gone'),
    pytest.param(143, {'SLURM_RESTART_COUNT': '19'}, True, id='the last restart'),
    pytest.param(143, {'SLURM_RESTART_COUNT': '20'}, False, id='too many restarts'),
    pytest.param(
      143, {'SLURM_RESTART_COUNT': '3', 'MAX_RESTARTS': '3'}, False, id='as many as were allowed'
    ),
    pytest.param(1, {}, False, id='failed at once'),
    # Bash counts on from what it is given.
    pytest.param(1, {'SECONDS': '300'}, True, id='failed after a while'),
    pytest.param(134, {'SECONDS': '300'}, True, id='lost a process'),
    pytest.param(2, {'SECONDS': '300'}, False, id='wrong flags'),
  ],
)
def test_what_goes_back_to_the_queue(
  checkout: Path, status: int, environment: dict[str, str], requeued: bool
):
  done = job(checkout, *FLAGS, STATUS=str(status), **environment)
  assert done.returncode == status
  assert ('scontrol requeue 7' in done.stdout.splitlines()) == requeued


def test_signal_to_the_script_reaches_the_step_which_saves(checkout: Path, tmp_path: Path):
  stubs.executable(
    tmp_path / 'bin/srun',
    "trap 'echo saved; exit 143' TERM; touch started\n"
    'i=0; while [ $i -lt 300 ]; do sleep 0.1; i=$((i + 1)); done',
  )
  environment = {
    'PATH': f'{tmp_path / "bin"}:/usr/bin:/bin',
    'SLURM_JOB_ID': '7',
    'SLURM_SUBMIT_DIR': str(checkout),
    'SLURM_NTASKS_PER_NODE': '8',
    'SLURM_GPUS_PER_NODE': '8',
    'SLURM_CPUS_PER_TASK': '12',
    'STATE': 'CANCELLED',
  }
  process = subprocess.Popen(
    ['bash', checkout / 'launch/slurm.sbatch', '--workdir=runs/x'],
    env=environment,
    stdout=subprocess.PIPE,
    text=True,
  )
  deadline = time.monotonic() + 30
  while not (checkout / 'started').exists():
    assert time.monotonic() < deadline
    assert process.poll() is None
    time.sleep(0.05)
  process.send_signal(signal.SIGTERM)
  output, _ = process.communicate(timeout=30)
  assert process.returncode == 143
  assert output.splitlines() == ['saved', 'slurm: the processes ended with status 143.']


@pytest.mark.parametrize(
  ('flags', 'environment', 'message'),
  [
    (['--config=a.py'], {}, '--workdir=DIR is required'),
    (FLAGS, {'SLURM_JOB_ID': ''}, 'submit this script'),
    (FLAGS, {'SLURM_SUBMIT_DIR': '/'}, 'is not the repository root'),
    (FLAGS, {'SLURM_NTASKS_PER_NODE': '1'}, '--ntasks-per-node=1 --gpus-per-node=h100:8'),
  ],
)
def test_wrong_use_is_one_line(
  checkout: Path, flags: list[str], environment: dict[str, str], message: str
):
  done = job(checkout, *flags, **environment)
  assert done.returncode == 2
  assert message in done.stderr
  assert done.stderr.count('\n') == 1
  assert not (checkout / 'srun.txt').exists()
