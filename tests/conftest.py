"""Fixtures for more than one directory of tests."""

from collections.abc import Callable
import fcntl
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest

from dpoq_jax.data import prepare
from tests.data import jpegs, tiny_cifar

REPOSITORY = pathlib.Path(__file__).parents[1]
# Tests of one worker share what they compile, as starts of a command do; the next run of the tests
# begins anew.
CACHE = tempfile.mkdtemp(prefix='dpoq_jax_tests_')
os.environ |= {
  'JAX_COMPILATION_CACHE_DIR': CACHE,
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.3',
}
REAL_DATA = REPOSITORY.parent / 'shared' / 'data'


def pytest_unconfigure() -> None:
  shutil.rmtree(CACHE, ignore_errors=True)


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
    if not done.exists():
      make(path)
      done.touch()
  return path


def _unpack(name: str, destination: pathlib.Path) -> None:
  unpack = REAL_DATA / 'unpack.py'
  if not unpack.exists():
    pytest.skip(f'the real {name} is not in ../shared/data')
  subprocess.run([sys.executable, unpack, name, destination], check=True)


def _prepare(name: str, source: pathlib.Path, destination: pathlib.Path) -> None:
  command = [sys.executable, '-m', 'dpoq_jax.data.prepare', name]
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
