"""What is said of data that are not there, by commands that are told of it by other flags."""

import pathlib

import pytest

from dpoq_jax.cli.errors import user_errors
from dpoq_jax.data import in_memory


@pytest.mark.parametrize('flag', [None, '--data-dir'])
def test_data_that_are_not_there_name_the_flag_that_works(
  flag: str | None,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(SystemExit, match='2'), user_errors(data_flag=flag):
    in_memory.load('cifar10', 'train', 'data')
  # Where it was looked for, as the path may have been meant from another folder.
  assert capsys.readouterr().err == (
    f'error: data set cifar10 not found in {tmp_path}/data: '
    f'give {flag or "--config.data.dir"}=DIR, where it is{" now" if flag else ""}, '
    f'or run dpoq prepare cifar10 --data-dir={tmp_path}/data\n'
  )
