import os
from pathlib import Path
import signal
import subprocess
import time

import pytest

from tests.launch import stubs

# Says what it was started with; fails, hangs or trains as its flags have it.
PYTHON = r"""
if [[ $1 == -c ]]; then echo 4321; exit; fi
echo "devices ${JAX_LOCAL_DEVICE_IDS-all}" "$@"
case "$*" in *--fail=*) ;; *) set -- "$@" --fail=none ;; esac
case "$*" in *--process-id=0*--fail=0* | *--process-id=1*--fail=1*) echo broken; exit 3 ;; esac
case "$*" in
  *--train*)
    trap 'echo saved; exit 143' TERM
    trap 'echo saved; exit 130' INT ;;
  *--hang*) trap 'echo ignored' TERM INT ;;
  *) exit 0 ;;
esac
echo ready
for ((i = 0; i < 300; i++)); do sleep 0.1; done
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
  return stubs.set_up_checkout(tmp_path, PYTHON)


def logs(checkout: Path) -> list[str]:
  return [path.read_text() for path in sorted((checkout.parent / 'run/logs').iterdir())]


def multiprocess(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
  return stubs.run(
    'bash',
    checkout / 'launch/multiprocess.sh',
    *arguments,
    cwd=checkout.parent,
    JAX_PLATFORMS='cpu',
  )


def started(checkout: Path, *flags: str) -> subprocess.Popen[str]:
  """Two processes that are ready for signals."""
  process = subprocess.Popen(
    ['bash', checkout / 'launch/multiprocess.sh', '2', '--', '--workdir=run', *flags],
    cwd=checkout.parent,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    # As in a terminal: Ctrl-C there is a signal to the whole group.
    start_new_session=True,
  )
  deadline = time.monotonic() + 30
  folder = checkout.parent / 'run/logs'
  # The log of process 0 is that of `tee`, which may start after process 1.
  while not folder.exists() or ['ready' in log for log in logs(checkout)] != [True, True]:
    assert time.monotonic() < deadline
    assert process.poll() is None, process.communicate()
    time.sleep(0.05)
  return process


def test_a_tilde_is_the_home_directory_as_training_has_it(checkout: Path):
  script = checkout / 'launch/multiprocess.sh'
  for given in (['1', '--dry-run', '--', '--workdir=~/r'], ['1', '--logs=~/r/logs', '--dry-run']):
    done = stubs.run('bash', script, *given, cwd=checkout.parent, HOME='/h')
    assert '>> /h/r/logs/process-0.log' in done.stdout, done
  assert stubs.run(
    'bash', script, '1', '--dry-run', '--', '--workdir', '~', cwd=checkout.parent, HOME='/h'
  ).stdout.endswith(' --workdir /h >> /h/logs/process-0.log 2>&1\n')


def test_dry_run_prints_every_process_and_leaves_no_trace(checkout: Path):
  before = sorted(checkout.parent.rglob('*'))
  done = multiprocess(checkout, '2', '--dry-run', '--', '--config=a:b', '--x=a b')
  assert done.returncode == 0, done.stderr
  assert sorted(checkout.parent.rglob('*')) == before
  setup, *processes = done.stdout.splitlines()
  assert setup == 'bash launch/setup.sh runtime'
  workdir = f'{checkout}/runs/a-b'.replace(' ', r'\ ')
  assert processes == [
    f'env JAX_LOCAL_DEVICE_IDS={i} .venv/bin/python -m dpoq_jax.train '
    f'--coordinator=localhost:PORT --num-processes=2 --process-id={i} --workdir={workdir} '
    rf'--config=a:b --x=a\ b >> {workdir}/logs/process-{i}.log 2>&1'
    for i in range(2)
  ]


def test_processes_get_flags_device_and_log_of_their_own(checkout: Path):
  done = multiprocess(checkout, '3', '--command=evaluate', '--', '--workdir=run', '--x=a b')
  assert (done.returncode, done.stderr) == (0, '')
  workdir = checkout.parent / 'run'
  assert logs(checkout) == [
    f'devices {i} -m dpoq_jax.evaluate --coordinator=localhost:4321 --num-processes=3 '
    f'--process-id={i} --workdir={workdir} --x=a b\n'
    for i in range(3)
  ]
  assert done.stdout == logs(checkout)[0]


def test_one_process_has_all_devices(checkout: Path):
  assert multiprocess(checkout, '1', '--', '--workdir=run').returncode == 0
  (log,) = logs(checkout)
  assert log.startswith('devices all -m dpoq_jax.train')


@pytest.mark.parametrize('failing', [0, 1])
def test_an_error_stops_the_others_which_save(checkout: Path, failing: int):
  done = multiprocess(checkout, '2', '--', '--workdir=run', f'--fail={failing}', '--train')
  assert done.returncode == 3
  assert f'process {failing} ended with status 3' in done.stderr
  assert 'broken' in (done.stdout if failing == 0 else done.stderr)
  assert 'saved' in logs(checkout)[1 - failing]


def test_others_that_do_not_stop_are_killed(checkout: Path):
  done = multiprocess(checkout, '3', '--grace=0', '--', '--workdir=run', '--fail=0', '--hang')
  assert done.returncode == 3
  assert done.stderr == 'multiprocess: process 0 ended with status 3.\n'


@pytest.mark.parametrize(
  ('number', 'status'), [(signal.SIGTERM, 143), (signal.SIGHUP, 143), (signal.SIGINT, 130)]
)
def test_a_signal_reaches_every_process_once(checkout: Path, number: int, status: int):
  process = started(checkout, '--train')
  os.killpg(process.pid, number)
  output, errors = process.communicate(timeout=30)
  assert process.returncode == status, errors
  assert [log.count('saved') for log in logs(checkout)] == [1, 1]
  assert output.endswith('saved\n')


def test_a_second_signal_kills(checkout: Path):
  process = started(checkout, '--hang')
  for _ in range(2):
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
  process.communicate(timeout=30)
  assert process.returncode == 137


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ([], "'' processes"),
    (['0'], "'0' processes"),
    (['two'], "'two' processes"),
    (['2', '--config=x'], "'--config=x' is none of the options"),
    (['2', '--grace=soon'], '--grace=soon'),
    (['2', '--', '--workdir=gs://bucket/run'], 'give --logs=DIR'),
  ],
)
def test_wrong_use_is_one_line(checkout: Path, arguments: list[str], message: str):
  done = multiprocess(checkout, *arguments)
  assert done.returncode == 2
  assert message in done.stderr
  assert done.stderr.count('\n') == 1
