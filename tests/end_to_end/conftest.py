"""A run that several tests compare with."""

import pathlib

import pytest

from tests import conftest
from tests.end_to_end import runs


@pytest.fixture(scope='session')
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Directory of a tiny run that nothing disturbed; tests that change it work on a copy."""

  def make(path: pathlib.Path) -> None:
    status, _, err = runs.train(path)
    assert status == 0, err

  return conftest.once(tmp_path_factory, 'uninterrupted', make)
