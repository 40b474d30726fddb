"""The launch scripts, what they install, and what no file of the repository may name."""

import ast
from collections.abc import Iterator
import importlib.metadata
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
import pytest

from tests.launch import stubs

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = [
  *sorted((ROOT / 'launch').glob('*.sh')),
  *sorted((ROOT / 'launch').glob('*.sbatch')),
  ROOT / '.ci' / 'run',
]
FOLDERS = (
  '.ci',
  'benchmarks',
  'docs',
  'dpoq_jax',
  'launch',
  'notebooks',
  'results',
  'tests',
)

# Joined here, so that this file does not name them either.
REGISTRIES = (
  'pypi' + '.org',
  'python' + 'hosted.org',
  'npm' + 'js.org',
  'npm' + 'js.com',
  'ana' + 'conda.org',
)
HOME = re.compile(r'(?<![\w.])/(?:home|root|Users)/')


def requirements(name: str, *, included: bool = True) -> list[Requirement]:
  """Returns what a file asks for; with what the files that it includes (`-r`) do, if wanted."""
  found = []
  for line in (ROOT / name).read_text().splitlines():
    if line.startswith('-r '):
      other = (ROOT / name).with_name(line.removeprefix('-r ')).relative_to(ROOT)
      found += requirements(str(other)) if included else []
    elif line and not line.startswith('#'):
      found.append(Requirement(line))
  return found


def optional_files() -> list[str]:
  return sorted(f'launch/{path.name}' for path in (ROOT / 'launch').glob('requirements-*.txt'))


def text_files() -> Iterator[tuple[Path, str]]:
  for folder in (ROOT, *(ROOT / name for name in FOLDERS)):
    for path in folder.glob('*' if folder == ROOT else '**/*'):
      if path.is_file() and '__pycache__' not in path.parts:
        try:
          yield path, path.read_text()
        except UnicodeDecodeError:
          continue


# What one benchmark compares with where it is installed.
COUNTERPART = ROOT / 'benchmarks' / 'pytorch_counterpart.py'
# A program of its own, copied to where it runs.
COPIED = {
  ROOT / 'dpoq_jax' / 'deploy' / 'onnx' / f'{name}.py'
  for name in ('predict', 'graph_network', 'decision', 'image_files')
}


def imported_modules(folder: Path) -> dict[str, Path]:
  """Top-level modules that the Python files under `folder` import, each with one such file."""
  found = {}
  for path in set(folder.rglob('*.py')) - COPIED:
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Import):
        found |= {alias.name.partition('.')[0]: path for alias in node.names}
      elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        found[node.module.partition('.')[0]] = path
  return found


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda script: script.name)
def test_script_parses(script: Path):
  subprocess.run(['bash', '-n', script], check=True)


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda script: script.name)
def test_shellcheck_has_nothing_to_say(script: Path):
  command = [Path(sys.executable).with_name('shellcheck'), '--external-sources', script]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stdout + done.stderr


def test_every_requirement_is_pinned_within_its_bounds():
  pins = {canonicalize_name(pin.name): pin for pin in requirements('launch/constraints.txt')}
  versions = {}
  for name, pin in pins.items():
    (specifier,) = pin.specifier
    assert specifier.operator == '==', f'{pin} is not an exact version'
    versions[name] = specifier.version
  for file in ('requirements.txt', *optional_files()):
    for requirement in requirements(file):
      version = versions.get(canonicalize_name(requirement.name))
      assert version, f'{requirement.name} of {file} is missing in launch/constraints.txt'
      assert requirement.specifier.contains(version), (
        f'{requirement} of {file}: pinned to {version}'
      )
      assert requirement.specifier, f'{requirement} of {file} has no lower bound'


def test_a_requirement_is_named_in_one_file_alone():
  sets = {file.removeprefix('launch/requirements-') for file in optional_files()}
  assert sets >= {'cuda.txt', 'notebooks.txt', 'onnx.txt', 'test.txt', 'tpu.txt'}
  named: dict[tuple[str, ...], str] = {}
  for file in ('requirements.txt', *optional_files()):
    for requirement in requirements(file, included=False):
      # `jax[tpu]` asks for more than `jax` does.
      key = (canonicalize_name(requirement.name), *sorted(requirement.extras))
      assert key not in named, f'{requirement} is in {file} and in {named[key]}'
      named[key] = file


def test_tests_need_what_the_extras_bring():
  tests = {requirement.name for requirement in requirements('launch/requirements-test.txt')}
  extras = [f'launch/requirements-{name}.txt' for name in ('docs', 'notebooks', 'onnx')]
  for file in extras:
    assert f'file: {file}' in (ROOT / 'setup.cfg').read_text()
    assert {requirement.name for requirement in requirements(file)} <= tests


@pytest.mark.parametrize('folder', ['dpoq_jax', 'benchmarks', 'launch'])
def test_every_import_is_declared(folder: str):
  own = {'benchmarks', 'dpoq_jax'}
  # Benchmarks also run what the project is compared with.
  files = [
    'requirements.txt',
    *(['launch/requirements-test.txt'] if folder == 'benchmarks' else []),
  ]
  declared = {
    canonicalize_name(requirement.name) for file in files for requirement in requirements(file)
  }
  providers = importlib.metadata.packages_distributions()
  for module, path in imported_modules(ROOT / folder).items():
    if module in sys.stdlib_module_names or module in own or path == COUNTERPART:
      continue
    names = {canonicalize_name(name) for name in providers.get(module, [module])}
    assert names & declared, f'{path} imports {module}: declare one of {names} in requirements.txt'


def test_no_file_names_a_registry_or_a_home_folder():
  for path, text in text_files():
    assert not (named := [host for host in REGISTRIES if host in text]), f'{path} names {named}'
    assert not (match := HOME.search(text)), f'{path} names a home folder: {match}'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
  return stubs.checkout(tmp_path)


@pytest.mark.parametrize(
  ('flags', 'expected'),
  [
    ([], ['--workdir={root}/runs/digits']),
    (['--config.seed=3'], ['--workdir={root}/runs/digits', '--config.seed=3']),
    (['--config=a:b,c'], ['--workdir={root}/runs/a-b-c', '--config=a:b,c']),
    (['--config', 'configs/a.py'], ['--workdir={root}/runs/a', '--config', 'configs/a.py']),
    (['--workdir=x y', '--f'], ['--workdir={caller}/x y', '--f']),
    (['--f', '--workdir', 'x'], ['--f', '--workdir', '{caller}/x']),
    (['--workdir=/x'], ['--workdir=/x']),
    (['--workdir=gs://bucket/x'], ['--workdir=gs://bucket/x']),
    (['--workdir='], ['--workdir=']),
  ],
)
def test_local_runs_training_in_the_root(checkout: Path, flags: list[str], expected: list[str]):
  caller = checkout.parent
  (checkout / 'launch/setup.sh').write_text('')
  stubs.executable(checkout / '.venv/bin/python', 'pwd; printf "%s\\n" "$@"')
  command = ['bash', checkout / 'launch/local.sh', *flags]
  result = subprocess.run(command, cwd=caller, check=True, capture_output=True, text=True)
  expected = [flag.format(root=checkout, caller=caller) for flag in expected]
  assert result.stdout.splitlines() == [str(checkout), '-m', 'dpoq_jax.train', *expected]


def test_setup_without_a_usable_python_says_so_in_one_line(checkout: Path):
  commands = checkout.parent / 'bin'
  for name in ('python3', 'python3.11', 'python3.12', 'python3.13'):
    stubs.executable(commands / name, 'echo "command not found" >&2; exit 127')
  for name in ('bash', 'dirname'):
    (commands / name).symlink_to(shutil.which(name) or name)
  result = subprocess.run(
    ['bash', checkout / 'launch/setup.sh'],
    env={**os.environ, 'PATH': str(commands), 'PYTHON': 'no-such-python'},
    capture_output=True,
    text=True,
  )
  assert result.returncode == 1
  assert re.fullmatch(r'setup: no Python 3\.11 .*PYTHON=.*\n', result.stderr), result.stderr
  assert not (checkout / '.venv').exists()


def test_setup_refuses_an_unknown_set(checkout: Path):
  result = subprocess.run(
    ['bash', checkout / 'launch/setup.sh', 'everything'], capture_output=True, text=True
  )
  assert result.returncode == 2
  assert re.fullmatch(
    r"setup: 'everything' given, but there are runtime cuda [a-z ]*test tpu\.\n", result.stderr
  )


STARTED = [
  path
  for path in (*sorted((ROOT / 'launch').iterdir()),)
  if path.suffix in ('.sh', '.sbatch', '.py') and path.name not in ('flags.sh', 'help.sh')
]


@pytest.mark.parametrize('script', STARTED, ids=lambda script: script.name)
def test_a_script_says_what_it_does(script: Path, tmp_path: Path):
  start = sys.executable if script.suffix == '.py' else 'bash'
  done = subprocess.run(
    [start, script, '--help'], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
  )
  assert (done.returncode, done.stderr) == (0, '')
  # The whole of its head, and nothing of its code.
  assert f'launch/{script.name}' in done.stdout
  assert '--dry-run' in done.stdout or script.stem in ('local', 'setup', 'test')
  assert not re.search(r'set -euo|#SBATCH|^import', done.stdout, re.MULTILINE)
