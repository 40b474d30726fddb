"""An artifact that a test may damage."""

import pathlib
import shutil

import pytest


@pytest.fixture
def copy(folder: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
  return pathlib.Path(shutil.copytree(folder, tmp_path / 'copy'))
