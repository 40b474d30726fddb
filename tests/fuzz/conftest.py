"""Bounds what every test of damaged inputs may take."""

from collections.abc import Iterator

import pytest

from tests.fuzz import mutations


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
  with mutations.little_memory():
    yield
