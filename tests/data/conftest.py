"""Miniature data sets for every test, with no files but the test's own."""

import pathlib
import shutil

import pytest

from tests import conftest
from tests.data import tiny_cifar
from tests.data.tiny_imagenet import NAME


@pytest.fixture
def tiny_cifar10(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> tiny_cifar.TinyCifar:
  return tiny_cifar.write('cifar10', tmp_path / 'binaries', monkeypatch)


@pytest.fixture
def tiny_cifar100(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> tiny_cifar.TinyCifar:
  return tiny_cifar.write('cifar100', tmp_path / 'binaries', monkeypatch)


@pytest.fixture
def case_images() -> pathlib.Path:
  """Folder of small images that were read wrongly once; its README says what each must do."""
  folder = conftest.REPOSITORY.parent / 'shared' / 'cases' / 'images'
  if not folder.is_dir():
    pytest.skip('there are no ../shared/cases beside this checkout')
  return folder


@pytest.fixture
def copied(jpeg_data_dir: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
  """A data directory that the test may damage."""
  shutil.copytree(jpeg_data_dir / NAME, tmp_path / 'data' / NAME)
  return tmp_path / 'data'
