from pathlib import Path
import subprocess

import pytest

from tests.launch import stubs

# As far as set-up sees it: says what it is, makes environments with itself in them, notes what pip
# is to install, and fails to if told so.
PYTHON = r"""
case $* in
  *ensurepip*) printf '%s\n' "$0" 3.12.1 digest ;;
  *'-m venv'*) mkdir -p .venv/bin && cp "$0" .venv/bin/python && echo venv >> calls ;;
  *'pip install'*)
    for word; do case $word in .|*requirements*) printf '%s ' "$word" >> calls ;; esac; done
    echo >> calls
    [ ! -f broken ] ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
  stubs.executable(tmp_path / 'python', PYTHON)
  return stubs.checkout(tmp_path)


def setup(checkout: Path, wanted: str) -> subprocess.CompletedProcess[str]:
  return stubs.run(
    'bash',
    checkout / 'launch/setup.sh',
    wanted,
    cwd=checkout,
    PYTHON=str(checkout.parent / 'python'),
  )


def test_a_python_that_is_named_and_will_not_do_is_refused(checkout: Path):
  stubs.executable(checkout.parent / 'bin/python3', PYTHON)
  script, named = checkout / 'launch/setup.sh', str(checkout / 'old python')
  done = stubs.run('bash', script, cwd=checkout, path=checkout.parent / 'bin', PYTHON=named)
  assert done.returncode == 1
  assert done.stderr == f'setup: no Python 3.11 to 3.14 with its venv module: PYTHON={named}\n'
  assert not (checkout / '.venv').exists()


def calls(checkout: Path) -> list[str]:
  return [line.strip() for line in (checkout / 'calls').read_text().splitlines()]


def test_sets_are_added_once_each(checkout: Path):
  for wanted in ('runtime', 'cuda', 'cuda', 'test', 'runtime', 'cuda'):
    done = setup(checkout, wanted)
    assert done.returncode == 0, done.stderr
  assert calls(checkout) == [
    'venv',
    '.',
    '. launch/requirements-cuda.txt',
    '. launch/requirements-test.txt',
  ]
  assert (checkout / '.venv/installed').read_text() == 'digest runtime cuda test\n'


def test_a_set_brings_the_runtime_with_it(checkout: Path):
  assert 'runtime and tpu' in setup(checkout, 'tpu').stderr
  assert setup(checkout, 'runtime').stderr == ''
  assert calls(checkout) == ['venv', '. launch/requirements-tpu.txt']


def test_after_a_failure_it_starts_over(checkout: Path):
  setup(checkout, 'runtime')
  (checkout / 'broken').touch()
  assert setup(checkout, 'cuda').returncode == 1
  (checkout / 'broken').unlink()
  assert setup(checkout, 'test').returncode == 0
  assert (checkout / '.venv/installed').read_text() == 'digest runtime test\n'
  assert calls(checkout).count('venv') == 2
