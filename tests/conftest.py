"""Fixtures for more than one directory of tests."""

from collections.abc import Callable
import fcntl
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import zlib

import jax
import pytest

from dpoq_jax.data import prepare, prepare_folder
from tests.data import jpegs, photographs, tiny_cifar

REPOSITORY = pathlib.Path(__file__).parents[1]
REAL_DATA = REPOSITORY.parent / 'shared' / 'data'

# What one run of the tests writes for all its processes: the first makes the folder, its workers
# and the commands that they start inherit the variable. The next run begins anew.
_SHARED = 'DPOQ_JAX_TESTS_FOLDER'
_IS_FIRST = _SHARED not in os.environ
_FOLDER = pathlib.Path(os.environ.get(_SHARED) or tempfile.mkdtemp(prefix='dpoq_jax_tests_'))
os.environ |= {
  _SHARED: str(_FOLDER),
  # Also what compiles in no time: a command consists of many such programs.
  'JAX_COMPILATION_CACHE_DIR': str(_FOLDER / 'programs'),
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
}
# Without bytecode every command would compile 1,800 modules first, in 4 s of its 7: where Python
# is told to leave none beside the sources, it goes here.
if os.environ.pop('PYTHONDONTWRITEBYTECODE', None):
  os.environ['PYTHONPYCACHEPREFIX'] = str(_FOLDER / 'bytecode')

# JAX was imported before the variables were there.
jax.config.update('jax_compilation_cache_dir', os.environ['JAX_COMPILATION_CACHE_DIR'])
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
# No dtype and no shape is changed without a word.
jax.config.update('jax_numpy_dtype_promotion', 'strict')
jax.config.update('jax_numpy_rank_promotion', 'raise')


def pytest_addoption(parser: pytest.Parser) -> None:
  parser.addoption('--all', action='store_true', help='run the nightly tests, too')
  parser.addoption(
    '--nightly-shard', metavar='I/N', help='run, of N parts of the nightly tests, part I, too'
  )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
  """Leaves out the exhaustive tests, and the nightly ones unless some of them are asked for."""
  if config.getoption('all'):
    return
  index, count = _shard(config.getoption('nightly_shard'))
  left_out = {
    item
    for item in items
    if item.get_closest_marker('exhaustive')
    or (item.get_closest_marker('nightly') and zlib.crc32(item.nodeid.encode()) % count != index)
  }
  config.hook.pytest_deselected(items=[item for item in items if item in left_out])
  items[:] = [item for item in items if item not in left_out]


def _shard(option: str | None) -> tuple[int, int]:
  """Returns which of how many parts of the nightly tests is run, from 0; by default none is."""
  if option is None:
    return -1, 1
  match = re.fullmatch(r'([1-9][0-9]*)/([1-9][0-9]*)', option)
  if not match or int(match[1]) > int(match[2]):
    raise pytest.UsageError(f'--nightly-shard={option}: give I/N, I from 1 to N.')
  return int(match[1]) - 1, int(match[2])


def pytest_unconfigure() -> None:
  if _IS_FIRST:
    shutil.rmtree(_FOLDER, ignore_errors=True)


def once(
  tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[pathlib.Path], object]
) -> pathlib.Path:
  """Returns a directory filled by `make`, once for all workers of a parallel run."""
  root = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    root = root.parent
  path, done = root / name, root / f'{name}.done'
  with (root / f'{name}.lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    maker = f'{make.__module__}.{make.__qualname__}'
    if not done.exists():
      make(path)
      done.write_text(maker)
    assert done.read_text() == maker, f'{name}: two fixtures have directories of this name'
  return path


def _unpack(name: str, destination: pathlib.Path) -> None:
  unpack = REAL_DATA / 'unpack.py'
  if not unpack.exists():
    pytest.skip(f'the real {name} is not in ../shared/data')
  subprocess.run([sys.executable, unpack, name, destination], check=True)


def _prepare(name: str, source: pathlib.Path, destination: pathlib.Path) -> None:
  command = [sys.executable, '-m', 'dpoq_jax.prepare', name]
  command += [f'--data-dir={destination}', f'--source={source}']
  subprocess.run(command, check=True, cwd=REPOSITORY)


@pytest.fixture(scope='session')
def jpeg_data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """TFDS directory that holds `tiny_imagenet`, to be left as it is."""
  return once(tmp_path_factory, 'jpegs', jpegs.write)


@pytest.fixture(scope='session')
def tiny_imagenet2012_data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """The same under the name of ImageNet."""
  return once(
    tmp_path_factory, 'tiny_imagenet2012', lambda path: jpegs.write(path, name='imagenet2012')
  )


@pytest.fixture(scope='session')
def own_images_data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Data directory with `own_images`, 40 generated photographs of 5 classes."""

  def make(path: pathlib.Path) -> None:
    prepare_folder.write('own_images', photographs.write(path / 'photos', 40), str(path))

  return once(tmp_path_factory, 'own_images', make)


@pytest.fixture(scope='session')
def cifar10_binaries(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Parent of the official binary batches of the real CIFAR-10."""
  return once(tmp_path_factory, 'cifar10_binaries', lambda path: _unpack('cifar10', path))


@pytest.fixture(scope='session')
def cifar10_data_dir(
  tmp_path_factory: pytest.TempPathFactory, cifar10_binaries: pathlib.Path
) -> pathlib.Path:
  """TFDS directory that holds the real CIFAR-10."""
  return once(
    tmp_path_factory,
    'cifar10_tfds',
    lambda path: _prepare('cifar10', cifar10_binaries, path),
  )


@pytest.fixture(scope='session')
def cifar100_binaries(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Parent of the official binary batches of the real CIFAR-100."""
  return once(tmp_path_factory, 'cifar100_binaries', lambda path: _unpack('cifar100', path))


@pytest.fixture(scope='session')
def cifar100_data_dir(
  tmp_path_factory: pytest.TempPathFactory, cifar100_binaries: pathlib.Path
) -> pathlib.Path:
  """TFDS directory that holds the real CIFAR-100."""
  return once(
    tmp_path_factory,
    'cifar100_tfds',
    lambda path: _prepare('cifar100', cifar100_binaries, path),
  )


def _prepare_tiny(name: str, data_dir: pathlib.Path) -> None:
  with pytest.MonkeyPatch.context() as patch:
    tiny = tiny_cifar.write(name, data_dir / 'binaries', patch)
    prepare.prepare(name, str(data_dir), str(tiny.parent))


@pytest.fixture(scope='session')
def tiny_cifar10_data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """TFDS directory that holds a CIFAR-10 of 100 random training images, to be left as it is."""
  return once(tmp_path_factory, 'tiny_cifar10', lambda path: _prepare_tiny('cifar10', path))


@pytest.fixture(scope='session')
def tiny_cifar100_data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """TFDS directory that holds a CIFAR-100 of 20 random training images, to be left as it is."""
  return once(tmp_path_factory, 'tiny_cifar100', lambda path: _prepare_tiny('cifar100', path))
