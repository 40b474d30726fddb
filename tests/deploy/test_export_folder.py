import pathlib

import pytest

from dpoq_jax.deploy import export_folder


def half_write(folder: pathlib.Path) -> None:
  (folder / 'half').touch()
  folder.write_bytes(b'')


@pytest.mark.parametrize('was_there', [True, False])
def test_an_export_that_fails_can_be_started_again(was_there: bool, tmp_path: pathlib.Path):
  folder = tmp_path / 'export'
  if was_there:
    folder.mkdir()
  with pytest.raises(IsADirectoryError), export_folder.emptied_on_failure(folder):
    half_write(folder)
  assert folder.exists() == was_there
  with export_folder.emptied_on_failure(folder):
    (folder / 'whole').touch()
  # What is there already is not touched.
  refused = pytest.raises(FileExistsError, match='give another folder')
  with refused, export_folder.emptied_on_failure(folder):
    pass
  assert [path.name for path in folder.iterdir()] == ['whole']
