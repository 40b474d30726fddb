"""The runtime of pages, brought by npm once for all tests; skips where that is impossible."""

import pathlib

import pytest

from dpoq_jax.deploy.web import runtime
from tests import conftest


def runtime_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Returns a folder that holds the files of the runtime."""

  def make(folder: pathlib.Path) -> None:
    brought = runtime.from_npm()
    (folder / 'dist').mkdir(parents=True)
    for name, content in zip(runtime.FILES, brought, strict=True):
      (folder / 'dist' / name).write_bytes(content)

  try:
    return conftest.once(tmp_path_factory, 'onnxruntime_web', make)
  except ValueError as error:
    pytest.skip(str(error))
