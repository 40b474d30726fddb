"""`dpoq`: its list of commands, and that each is what `python -m` runs."""

import pathlib
import re
import subprocess
import sys

import pytest

import dpoq_jax
from tests.end_to_end import runs


def dpoq(*words: str, cwd: pathlib.Path) -> subprocess.CompletedProcess[str]:
  code = 'from dpoq_jax.cli import subcommands; subcommands.main()'
  return subprocess.run(
    [sys.executable, '-c', code, *words],
    cwd=cwd,
    env=runs.environment() | {'PYTHONPATH': str(runs.REPOSITORY)},
    capture_output=True,
    text=True,
    check=False,
    timeout=300,
  )


@pytest.mark.parametrize('words', [(), ('--help',), ('-h',)])
def test_commands_are_listed_with_a_line_each(words: tuple[str, ...], tmp_path: pathlib.Path):
  done = dpoq(*words, cwd=tmp_path)
  assert (done.returncode, done.stderr) == (0, '')
  listed = dict(re.findall(r'^  (\w+) +(\w.*\.)$', done.stdout, re.MULTILINE))
  commands = {
    path.stem if path.stem != '__main__' else path.parent.name
    for path in (runs.REPOSITORY / 'dpoq_jax').glob('**/*.py')
    if len(path.relative_to(runs.REPOSITORY).parts) == 2 or path.stem == '__main__'
    if "\nif __name__ == '__main__':" in path.read_text()
  }
  assert set(listed) == commands
  assert listed['train'] == 'Trains one network at several precisions.'


def test_the_list_needs_nothing_that_is_slow_to_import(tmp_path: pathlib.Path):
  code = (
    'import sys; from dpoq_jax.cli import subcommands; sys.argv = ["dpoq"]; subcommands.main(); '
    'print({"jax", "absl", "pydantic", "numpy", "rich"} & set(sys.modules))'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=runs.REPOSITORY, capture_output=True, text=True, check=True
  )
  assert done.stdout.endswith('set()\n')


def test_version(tmp_path: pathlib.Path):
  assert dpoq('--version', cwd=tmp_path).stdout == f'dpoq_jax {dpoq_jax.__version__}\n'


def test_an_unknown_command_gets_the_nearest(tmp_path: pathlib.Path):
  done = dpoq('trian', cwd=tmp_path)
  assert done.returncode == 2
  assert done.stderr == 'error: trian: there is no such command; did you mean train?\n'


def test_a_command_runs_from_any_folder_with_the_caller_s_paths(tmp_path: pathlib.Path):
  done = dpoq('train', f'--config={runs.TINY_NET},smoke', '--workdir=here/run', cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  assert (tmp_path / 'here' / 'run' / 'summary.json').is_file()
  done = dpoq('evaluate', '--workdir=here/run', cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  assert '99' in done.stdout or '%' in done.stdout
  assert 'Traceback' not in dpoq('evaluate', '--workdir=nowhere', cwd=tmp_path).stderr


def test_a_config_is_found_by_its_name_or_the_nearest_is_named(tmp_path: pathlib.Path):
  done = dpoq('train', '--config=cifar10_resnet8_gpu', '--workdir=x', cwd=tmp_path)
  assert done.returncode == 2
  assert done.stderr == (
    'error: --config=cifar10_resnet8_gpu: there is no such file; did you mean '
    'cifar10_resnet8_cpu?\n'
  )
  assert list(tmp_path.iterdir()) == []
