"""Runs that several tests compare with; tests that change one work on a copy."""

from collections.abc import Callable
import pathlib

import pytest

from tests import conftest
from tests.end_to_end import runs


@pytest.fixture(scope='session')
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Directory of a run of the tests' own network that nothing disturbed."""
  return conftest.once(tmp_path_factory, 'uninterrupted', trained(runs.TINY_NET))


@pytest.fixture(scope='session')
def resnet_run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """The same of a ResNet-8, for what depends on the network."""
  return conftest.once(tmp_path_factory, 'resnet_run', trained(runs.RESNET))


def trained(model: str) -> Callable[[pathlib.Path], None]:
  """What trains a network to its end in a directory."""

  def make(path: pathlib.Path) -> None:
    status, _, err = runs.train(path, model=model)
    assert status == 0, err

  return make
