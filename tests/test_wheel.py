"""The wheel: what is in it, and that it works in an environment of its own, from any folder."""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import zipfile

from PIL import Image
import pytest

import dpoq_jax
from dpoq_jax import configs, pretrained
from dpoq_jax.data import in_memory
from tests import conftest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOURCES = ('LICENSE', 'README.md', 'pyproject.toml', 'requirements.txt', 'setup.cfg')
# Of the files that pip reads; pip itself is the user's own.
PINS = {'PIP_CONSTRAINT': str(ROOT / 'launch' / 'constraints.txt')}


def run(
  *command: str | pathlib.Path, cwd: pathlib.Path, **environment: str
) -> subprocess.CompletedProcess[str]:
  done = subprocess.run(
    command,
    cwd=cwd,
    env={**{k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}, **environment},
    capture_output=True,
    text=True,
    check=False,
    timeout=900,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return done


@pytest.fixture(scope='session')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  def build(folder: pathlib.Path) -> None:
    source = folder / 'source'
    source.mkdir(parents=True)
    for name in SOURCES:
      shutil.copy(ROOT / name, source)
    for name in ('dpoq_jax', 'launch'):
      shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns('__pycache__'))
    run(sys.executable, '-m', 'build', '--wheel', f'--outdir={folder}', cwd=source, **PINS)
    shutil.rmtree(source)

  (path,) = conftest.once(tmp_path_factory, 'wheel', build).glob('*.whl')
  return path


def make_environment(folder: pathlib.Path) -> pathlib.Path:
  """A virtual environment; returns its folder of commands."""
  run(sys.executable, '-m', 'venv', folder, cwd=folder.parent)
  return folder / 'bin'


def digit(folder: pathlib.Path) -> pathlib.Path:
  """A folder with the picture of a digit."""
  folder.mkdir()
  test_set = in_memory.load('digits', 'test')
  Image.fromarray(test_set.images[0, ..., 0]).save(folder / 'digit.png')
  return folder


def test_it_holds_configs_networks_and_what_pages_are_made_of(wheel: pathlib.Path):
  with zipfile.ZipFile(wheel) as archive:
    names = set(archive.namelist())
    sizes = sum(each.file_size for each in archive.infolist() if '/pretrained/' in each.filename)
  assert {f'dpoq_jax/configs/{name}.py' for name in configs.names()} <= names
  for name in pretrained.names():
    files = {path.name for path in pretrained.folder(name).iterdir()}
    assert {f'dpoq_jax/pretrained/{name}/{file}' for file in files} <= names
    assert 'README.md' in files
  assert sizes < 3_000_000
  assert {
    f'dpoq_jax/reporting/{path.name}' for path in (ROOT / 'dpoq_jax/reporting').glob('page.*')
  } <= names
  assert {
    f'dpoq_jax/deploy/web/page/{path.name}'
    for path in (ROOT / 'dpoq_jax/deploy/web/page').iterdir()
  } <= names
  assert 'dpoq_jax/py.typed' in names
  own = {name for name in names if not name.startswith(('dpoq_jax/', 'dpoq_jax-'))}
  assert not own, 'it would install more than the package'


def test_it_works_where_no_repository_is(wheel: pathlib.Path, tmp_path: pathlib.Path):
  commands = make_environment(tmp_path / 'environment')
  # What it needs is lent by the environment of the tests; of the wheel itself nothing is.
  paths = {'base': str(tmp_path / 'environment'), 'platbase': str(tmp_path / 'environment')}
  own = pathlib.Path(sysconfig.get_path('purelib', 'venv', paths))
  lent = [path for path in sys.path if pathlib.Path(path).name.endswith('-packages')]
  (own / 'lent.pth').write_text('\n'.join(lent))
  install = ('-m', 'pip', 'install', '--no-deps', '--no-index', wheel)
  run(commands / 'python', *install, cwd=tmp_path)
  done = run(commands / 'dpoq', '--version', cwd=tmp_path)
  assert done.stdout == f'dpoq_jax {dpoq_jax.__version__}\n'
  where = run(commands / 'python', '-c', 'import dpoq_jax; print(dpoq_jax.__file__)', cwd=tmp_path)
  assert pathlib.Path(where.stdout.strip()).is_relative_to(tmp_path)
  photos = digit(tmp_path / 'photos')
  done = run(commands / 'dpoq', 'predict', '--pretrained=digits_resnet8', photos, cwd=tmp_path)
  header, row = done.stdout.splitlines()
  assert header.startswith('"input","label","class_name"')
  assert row.startswith('"digit.png","')
  assert done.stderr.startswith('1 images labelled')
  # A device reads rings with NumPy.
  code = (
    'import sys; from dpoq_jax import pretrained; from dpoq_jax.deploy.artifact import rings; '
    'held = rings.load(pretrained.folder("digits_resnet8"), max_bits=4); print(held.bits, '
    '{"jax", "flax", "tensorflow_datasets", "grain", "onnx"} & set(sys.modules))'
  )
  done = run(commands / 'python', '-c', code, cwd=tmp_path)
  assert done.stdout == '(2, 4) set()\n'


@pytest.mark.nightly
def test_pip_brings_all_that_it_needs(wheel: pathlib.Path, tmp_path: pathlib.Path):
  commands = make_environment(tmp_path / 'environment')
  run(commands / 'python', '-m', 'pip', 'install', wheel, cwd=tmp_path, **PINS)
  photos = digit(tmp_path / 'photos')
  done = run(commands / 'dpoq', 'predict', '--pretrained=digits_resnet8', photos, cwd=tmp_path)
  assert done.stdout.splitlines()[1].startswith('"digit.png","')
  # And trains, with a config by its name.
  flags = ('--config=digits_resnet8:width=4,smoke', '--workdir=run')
  run(commands / 'dpoq', 'train', *flags, cwd=tmp_path)
  assert (tmp_path / 'run' / 'summary.json').is_file()
