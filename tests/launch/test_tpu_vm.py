from pathlib import Path
import shlex
import signal
import subprocess
import time

import pytest

from tests.launch import stubs

# Cloud TPU as far as the script sees it: `state` is the machine's, `creations` and `runs` say, a
# line each, what comes of the next one; all commands are noted in `calls`.
GCLOUD = r"""
cd "$(dirname "$0")/.." || exit 1
next() { head -n 1 "$1"; sed -i 1d "$1"; }
printf '%s\n' "$(printf '%q ' "$@")" >> calls
case $4 in
  list) cat state ;;
  create)
    outcome=$(next creations)
    [[ -z $outcome ]] || { echo "$outcome" >&2; exit 1; }
    echo READY > state ;;
  delete) : > state ;;
  scp) tar -tzf "$5" > archive ;;
  ssh)
    case $* in
      *systemd-run*) outcome=$(next runs) ;;
      *setup.sh*) exit ;;
      *) touch stop; exit ;;
    esac
    case $outcome in
      PREEMPTED) echo PREEMPTED > state; exit 255 ;;
      wait)
        touch started
        # The service ends when it is stopped.
        for ((i = 0; i < 300; i++)); do sleep 0.1; [[ ! -f stop ]] || exit 143; done ;;
      *) exit "$outcome" ;;
    esac ;;
esac
"""
OPTIONS = ['--name=job', '--zone=us-west4-a', '--share=10.0.0.2:/share']
FLAGS = ['--workdir=/mnt/share/runs/x', '--config=a:b', '--x=a b']


@pytest.fixture
def cloud(tmp_path: Path) -> Path:
  """A checkout, beside it the stub, with no machine there."""
  root = stubs.checkout(tmp_path)
  for folder in ('dpoq_jax', 'dpoq_jax/configs'):
    (root / folder / '__pycache__').mkdir(parents=True)
    (root / folder / 'a.py').touch()
    (root / folder / '__pycache__/a.pyc').touch()
  stubs.executable(tmp_path / 'bin/gcloud', GCLOUD, shell='/bin/bash')
  for name in ('state', 'calls', 'creations', 'runs'):
    (tmp_path / name).touch()
  return root


def tpu_vm(cloud: Path, *options: str, flags: list[str] = FLAGS):
  return stubs.run(
    'bash',
    cloud / 'launch/tpu_vm.sh',
    *OPTIONS,
    *options,
    '--',
    *flags,
    cwd=cloud.parent,
    path=cloud.parent / 'bin',
    TPU_VM_WAIT='0',
  )


def verbs(cloud: Path) -> list[str]:
  """What was done, in order; `prepare`, `train` and `stop` are what ssh was used for."""
  result = []
  for call in (cloud.parent / 'calls').read_text().splitlines():
    verb = call.split()[3]
    if verb == 'ssh':
      verb = 'train' if 'systemd-run' in call else 'prepare' if 'setup.sh' in call else 'stop'
    if verb != 'list':
      result.append(verb)
  return result


def script(cloud: Path, verb: str) -> str:
  """The lines of bash that were run on the hosts, as root."""
  calls = map(shlex.split, (cloud.parent / 'calls').read_text().splitlines())
  marker = {'prepare': 'setup.sh', 'train': 'systemd-run'}[verb]
  for call in calls:
    for word in call:
      if word.startswith('--command=') and marker in word:
        command = word.removeprefix('--command=')
        # Quoted twice: for the user's shell there, then for root's.
        done = stubs.run('bash', '-c', f'sudo() {{ printf %s "$3"; }}; {command}', cwd=cloud.parent)
        return done.stdout
  raise AssertionError(f'nothing was run to {verb}')


def test_dry_run_prints_the_commands_and_leaves_no_trace(cloud: Path):
  before = sorted(cloud.parent.rglob('*'))
  done = tpu_vm(cloud, '--dry-run', '--spot', '--type=v5litepod-16')
  assert done.returncode == 0, done.stderr
  assert sorted(cloud.parent.rglob('*')) == before
  assert not (cloud.parent / 'calls').read_text()
  printed = [line for line in done.stdout.splitlines() if line.startswith('gcloud')]
  assert [line.split()[4] for line in printed] == ['create', 'scp', 'ssh', 'ssh', 'delete']
  assert '--accelerator-type=v5litepod-16' in printed[0]
  assert '--spot' in printed[0]
  assert all('--worker=all' in line for line in printed[1:4])
  assert 'mount -t nfs 10.0.0.2:/share /mnt/share' in done.stdout
  assert r'-m dpoq_jax.train --distributed --workdir=/mnt/share/runs/x' in done.stdout


def test_creates_copies_trains_deletes(cloud: Path):
  (cloud.parent / 'runs').write_text('0\n')
  done = tpu_vm(cloud)
  assert done.returncode == 0, done.stderr
  assert verbs(cloud) == ['create', 'scp', 'prepare', 'train', 'delete']
  archive = (cloud.parent / 'archive').read_text().splitlines()
  assert {'dpoq_jax/a.py', 'dpoq_jax/configs/a.py', 'launch/setup.sh', 'requirements.txt'} <= set(
    archive
  )
  assert not [name for name in archive if 'pycache' in name]


def test_scripts_parse_and_pass_the_flags_on(cloud: Path, tmp_path: Path):
  (cloud.parent / 'runs').write_text('0\n')
  tpu_vm(cloud)
  assert stubs.run('bash', '-n', '-c', script(cloud, 'prepare'), cwd=tmp_path).returncode == 0
  train = script(cloud, 'train').replace('/mnt/share/runs', str(tmp_path))
  (tmp_path / 'x/logs').mkdir(parents=True)
  stubs.executable(
    tmp_path / 'bin/systemd-run',
    f'printf "%s\\n" "$@" > words; sleep 0.5; echo step >> {tmp_path}/x/logs/w-0.log; exit 143',
  )
  done = stubs.run(
    'bash', '-c', train, cwd=tmp_path, path=tmp_path / 'bin', HOSTNAME='t1v-n-1234-w-0'
  )
  assert done.returncode == 143, done.stderr
  # What host 0 logs is shown as well.
  assert done.stdout == 'step\n'
  words = (tmp_path / 'words').read_text().splitlines()
  assert f'--property=StandardOutput=append:{tmp_path}/x/logs/w-0.log' in words
  python = words.index('/opt/dpoq_jax/.venv/bin/python')
  assert words[python + 1 : python + 4] == ['-m', 'dpoq_jax.train', '--distributed']
  assert words[python + 4 :] == [f'--workdir={tmp_path}/x', *FLAGS[1:]]


def test_machine_that_is_there_is_used_and_kept_on_request(cloud: Path):
  (cloud.parent / 'state').write_text('READY\n')
  (cloud.parent / 'runs').write_text('0\n')
  assert tpu_vm(cloud, '--keep').returncode == 0
  assert verbs(cloud) == ['scp', 'prepare', 'train']


def test_preempted_machine_is_replaced_and_training_goes_on(cloud: Path):
  (cloud.parent / 'runs').write_text('PREEMPTED\nPREEMPTED\n0\n')
  done = tpu_vm(cloud, '--spot', '--failures=0')
  assert done.returncode == 0, done.stderr
  once = ['create', 'scp', 'prepare', 'train', 'delete']
  assert verbs(cloud) == 3 * once


def test_waits_for_a_free_machine_but_not_for_a_wrong_request(cloud: Path):
  (cloud.parent / 'runs').write_text('0\n')
  (cloud.parent / 'creations').write_text('There is no more capacity in the zone\n')
  assert tpu_vm(cloud).returncode == 0
  assert verbs(cloud)[:3] == ['create', 'create', 'scp']
  (cloud.parent / 'creations').write_text('Invalid accelerator type\n')
  done = tpu_vm(cloud)
  assert done.returncode == 1
  assert 'Invalid accelerator type' in done.stderr


@pytest.mark.parametrize(
  ('runs', 'status', 'tries'),
  [
    pytest.param('1\n1\n0\n', 0, 3, id='fails twice'),
    pytest.param('1\n1\n134\n', 134, 3, id='fails too often'),
    pytest.param('2\n', 2, 1, id='wrong flags'),
  ],
)
def test_failure_while_the_machine_is_there(cloud: Path, runs: str, status: int, tries: int):
  (cloud.parent / 'runs').write_text(runs)
  done = tpu_vm(cloud, '--failures=2')
  assert done.returncode == status
  assert verbs(cloud).count('train') == tries
  # It costs money until it is deleted, which is then for the user to do.
  assert ('delete job' in done.stderr) == (status != 0)
  assert ('delete' in verbs(cloud)) == (status == 0)


def test_signal_stops_training_on_all_hosts(cloud: Path):
  (cloud.parent / 'runs').write_text('wait\n')
  process = subprocess.Popen(
    ['bash', cloud / 'launch/tpu_vm.sh', *OPTIONS, '--', *FLAGS],
    env={'PATH': f'{cloud.parent / "bin"}:/usr/bin:/bin'},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  deadline = time.monotonic() + 30
  while not (cloud.parent / 'started').exists():
    assert time.monotonic() < deadline
    assert process.poll() is None
    time.sleep(0.05)
  process.send_signal(signal.SIGTERM)
  _, errors = process.communicate(timeout=30)
  assert process.returncode == 143
  assert verbs(cloud) == ['create', 'scp', 'prepare', 'train', 'stop']
  assert 'delete job' in errors


@pytest.mark.parametrize(
  ('options', 'flags', 'message'),
  [
    (['--name=My_Job'], FLAGS, "--name='My_Job'"),
    (['--share=10.0.0.2'], FLAGS, "--share='10.0.0.2'"),
    (['--zone'], FLAGS, "'--zone' is none"),
    ([], ['--workdir=runs/x'], '--workdir=/mnt/share/... is required'),
    (['--failures=x'], FLAGS, '--failures=x'),
  ],
)
def test_wrong_use_is_one_line(cloud: Path, options: list[str], flags: list[str], message: str):
  done = tpu_vm(cloud, *options, flags=flags)
  assert done.returncode == 2
  assert message in done.stderr
  assert done.stderr.count('\n') == 1
