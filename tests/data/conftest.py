"""Miniature data sets for every test, with no files but the test's own."""

import pathlib

import pytest

from tests.data import tiny_cifar


@pytest.fixture
def tiny_cifar10(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> tiny_cifar.TinyCifar:
  return tiny_cifar.write('cifar10', tmp_path / 'binaries', monkeypatch)


@pytest.fixture
def tiny_cifar100(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> tiny_cifar.TinyCifar:
  return tiny_cifar.write('cifar100', tmp_path / 'binaries', monkeypatch)
