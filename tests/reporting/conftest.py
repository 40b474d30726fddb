"""A page on a made-up network."""

import pathlib
from typing import Any

import pytest

from dpoq_jax.reporting import page as page_lib
from tests.reporting import made_up


@pytest.fixture(scope='module')
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, dict[str, Any]]:
  arguments = made_up.problem((2, 4, 8))
  return page_lib.write(tmp_path_factory.mktemp('a run') / 'report', **arguments), arguments
