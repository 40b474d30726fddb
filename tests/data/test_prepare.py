"""Tests of `dpoq_jax.data.prepare`."""

import dataclasses
import json
import pathlib
import signal
import subprocess
import sys
import tarfile
from typing import Any, cast
import urllib.request

import numpy as np
import pytest

from dpoq_jax.data import in_memory, prepare
from tests.data.tiny_cifar import TinyCifar
from tests.end_to_end import runs

REPOSITORY = pathlib.Path(__file__).parents[2]

# Runs the command on a miniature in a process of its own, which kills itself without mercy at the
# image of the given number.
SUBPROCESS = """
import dataclasses, json, os, signal, sys
from dpoq_jax.data import prepare
from tests.end_to_end import runs

name, data_dir, source, batches, fatal = sys.argv[1:]
prepare.ARCHIVES[name] = dataclasses.replace(prepare.ARCHIVES[name], batches=json.loads(batches))
encode, count = prepare._encode_png, 0

def encode_or_die(image):
  global count
  count += 1
  if count == int(fatal):
    os.kill(os.getpid(), signal.SIGKILL)
  return encode(image)

prepare._encode_png = encode_or_die
status = runs.status_of('prepare', name, f'--data-dir={data_dir}', f'--source={source}')
assert 'tensorflow' not in sys.modules
sys.exit(status)
"""


def run_in_subprocess(
  tiny: TinyCifar, data_dir: pathlib.Path, fatal_image: int = 0, prefix: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
  batches = json.dumps(prepare.ARCHIVES[tiny.name].batches)
  arguments = [tiny.name, data_dir, tiny.parent, batches, str(fatal_image)]
  command = [*prefix, sys.executable, '-c', SUBPROCESS, *arguments]
  return subprocess.run(command, check=False, cwd=REPOSITORY, capture_output=True, text=True)


def check_against_records(
  name: str, data_dir: pathlib.Path, records: dict[str, np.ndarray]
) -> None:
  """Compares what plain TFDS and our `load` read with binary records, image by image."""
  import tensorflow_datasets as tfds

  num_labels = records['train'].shape[1] - 3072
  for split, expected in records.items():
    # Their images are decoded once, by `load`.
    skip = {'image': tfds.decode.SkipDecoding()}
    options = {'data_dir': data_dir, 'download': False, 'decoders': skip}
    source = cast(Any, tfds.data_source(name, split=split, **options))
    examples = source.__getitems__(range(len(source)))
    ids = [example['id'].decode().removeprefix(f'{split}_') for example in examples]
    order = np.array(ids, int)
    np.testing.assert_array_equal(np.sort(order), np.arange(len(expected)))
    loaded = in_memory.load(name, split, data_dir)
    planes = expected[order, num_labels:].reshape(-1, 3, 32, 32)
    np.testing.assert_array_equal(loaded.images, planes.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(loaded.labels, expected[order, num_labels - 1])
    if name == 'cifar100':
      coarse = [example['coarse_label'] for example in examples]
      np.testing.assert_array_equal(coarse, expected[order, 0])


def read_binaries(name: str, parent: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns uint8 [records, labels + 3072] of each split."""
  archive = prepare.ARCHIVES[name]
  splits = {'train': [], 'test': []}
  for file in archive.batches:
    record = np.fromfile(parent / archive.folder / file, np.uint8)
    split = 'test' if file.startswith('test') else 'train'
    splits[split].append(record.reshape(-1, len(archive.label_names) + 3072))
  return {split: np.concatenate(batches) for split, batches in splits.items()}


def error_of(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
  """Returns what a failing run says, having checked that it is one line and status 2."""
  assert runs.status_of('prepare', *argv) == 2
  out, err = capsys.readouterr()
  assert out == ''
  assert err.startswith('error: ')
  assert err.count('\n') == 1
  return err


def test_tiny_cifar10_is_what_plain_tfds_reads(tiny_cifar10: TinyCifar, tmp_path: pathlib.Path):
  assert (
    runs.status_of(
      'prepare', 'cifar10', f'--data-dir={tmp_path}', f'--source={tiny_cifar10.folder}'
    )
    == 0
  )
  assert (tmp_path / 'cifar10/3.0.2/features.json').exists()
  check_against_records('cifar10', tmp_path, tiny_cifar10.records)


def test_tiny_cifar100_is_what_plain_tfds_reads(tiny_cifar100: TinyCifar, tmp_path: pathlib.Path):
  source = f'--source={tiny_cifar100.parent}'
  assert runs.status_of('prepare', 'cifar100', f'--data-dir={tmp_path}', source) == 0
  check_against_records('cifar100', tmp_path, tiny_cifar100.records)


@pytest.mark.nightly
def test_real_cifar10_is_identical_to_its_binaries(
  cifar10_binaries: pathlib.Path, cifar10_data_dir: pathlib.Path
):
  records = read_binaries('cifar10', cifar10_binaries)
  assert [len(records[split]) for split in in_memory.SPLITS] == [50_000, 10_000]
  check_against_records('cifar10', cifar10_data_dir, records)


@pytest.mark.nightly
def test_real_cifar100_is_identical_to_its_binaries(
  cifar100_binaries: pathlib.Path, cifar100_data_dir: pathlib.Path
):
  records = read_binaries('cifar100', cifar100_binaries)
  assert [len(records[split]) for split in in_memory.SPLITS] == [50_000, 10_000]
  check_against_records('cifar100', cifar100_data_dir, records)


def test_a_second_run_changes_nothing_and_needs_no_source(
  tiny_cifar10: TinyCifar,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
):
  prepare.prepare('cifar10', str(tmp_path), str(tiny_cifar10.parent))
  files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}
  monkeypatch.setattr(urllib.request, 'urlopen', None)
  assert runs.status_of('prepare', 'cifar10', f'--data-dir={tmp_path}') == 0
  assert 'already' in capsys.readouterr().out
  assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')} == files


def test_a_killed_run_leaves_nothing_that_load_takes_for_complete(
  tiny_cifar10: TinyCifar, tmp_path: pathlib.Path
):
  # In the middle of the second split: the first one is written by then.
  killed = run_in_subprocess(tiny_cifar10, tmp_path, fatal_image=110)
  assert killed.returncode == -signal.SIGKILL
  assert list(tmp_path.glob('cifar10/incomplete.*/*train.array_record*'))
  with pytest.raises(FileNotFoundError, match='not found'):
    in_memory.load('cifar10', 'train', tmp_path)
  assert run_in_subprocess(tiny_cifar10, tmp_path).returncode == 0
  check_against_records('cifar10', tmp_path, tiny_cifar10.records)


def test_an_interrupted_run_cleans_up(
  tiny_cifar10: TinyCifar,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
):
  def interrupt(image: np.ndarray) -> bytes:
    raise KeyboardInterrupt

  monkeypatch.setattr(prepare, '_encode_png', interrupt)
  source = f'--source={tiny_cifar10.parent}'
  assert runs.status_of('prepare', 'cifar10', f'--data-dir={tmp_path}', source) == 130
  assert 'error: interrupted' in capsys.readouterr().err
  assert list((tmp_path / 'cifar10').iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(
  tiny_cifar10: TinyCifar, tmp_path: pathlib.Path
):
  # A limit on the size of a file fails its writing as a full disk does.
  limited = ('bash', '-c', 'ulimit -f 100 && exec "$@"', 'limited')
  failed = run_in_subprocess(tiny_cifar10, tmp_path, prefix=limited)
  assert failed.returncode == 2
  assert f'cannot write data set cifar10 to {tmp_path}' in failed.stderr
  assert 'Traceback' not in failed.stderr
  assert list((tmp_path / 'cifar10').iterdir()) == []


def test_a_truncated_batch_is_named(
  tiny_cifar10: TinyCifar, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  batch = tiny_cifar10.folder / 'data_batch_3.bin'
  batch.write_bytes(batch.read_bytes()[:-1])
  argv = ['cifar10', f'--data-dir={tmp_path}', f'--source={tiny_cifar10.parent}']
  assert f'{batch} is not the published file (61,459 bytes' in error_of(argv, capsys)
  assert not (tmp_path / 'cifar10').exists()


def test_a_batch_with_one_wrong_byte_is_named(
  tiny_cifar100: TinyCifar, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  batch = tiny_cifar100.folder / 'test.bin'
  content = bytearray(batch.read_bytes())
  content[1000] ^= 1
  batch.write_bytes(content)
  argv = ['cifar100', f'--data-dir={tmp_path}', f'--source={tiny_cifar100.folder}']
  assert f'{batch} is not the published file' in error_of(argv, capsys)
  assert not (tmp_path / 'cifar100').exists()


@pytest.mark.parametrize('file', ['data_batch_1.bin', 'test_batch.bin', 'batches.meta.txt'])
def test_a_missing_file_is_named(
  tiny_cifar10: TinyCifar,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
  file: str,
):
  (tiny_cifar10.folder / file).unlink()
  argv = ['cifar10', f'--data-dir={tmp_path}', f'--source={tiny_cifar10.folder}']
  assert f'{tiny_cifar10.folder / file} is missing' in error_of(argv, capsys)
  assert not (tmp_path / 'cifar10').exists()


def test_class_names_are_counted(
  tiny_cifar10: TinyCifar, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  names = tiny_cifar10.folder / 'batches.meta.txt'
  names.write_text('airplane\n')
  argv = ['cifar10', f'--data-dir={tmp_path}', f'--source={tiny_cifar10.parent}']
  assert f'{names} names 1 classes, not 10' in error_of(argv, capsys)


def test_a_folder_without_batches_is_named(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  argv = ['cifar10', f'--data-dir={tmp_path}', f'--source={tmp_path / "empty"}']
  assert f'{tmp_path / "empty"} holds neither cifar-10-batches-bin/' in error_of(argv, capsys)


def test_an_unknown_data_set_gets_the_nearest_name(capsys: pytest.CaptureFixture[str]):
  assert 'did you mean cifar100?' in error_of(['cifar-100'], capsys)


def test_digits_need_nothing(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
  assert runs.status_of('prepare', 'digits', f'--data-dir={tmp_path}') == 0
  assert 'embedded' in capsys.readouterr().out
  assert list(tmp_path.iterdir()) == []


def test_help_needs_neither_tfds_nor_jax():
  script = """
import runpy, sys
sys.argv = ['prepare', '--help']
try:
  runpy.run_module('dpoq_jax.prepare', run_name='__main__')
except SystemExit:
  print({'jax', 'tensorflow_datasets'} & set(sys.modules))
"""
  result = subprocess.run(
    [sys.executable, '-c', script], capture_output=True, text=True, check=True
  )
  assert '--source: folder' in result.stdout
  assert result.stdout.endswith('set()\n')


class TestDownload:
  """`prepare` without a source, from an archive on this machine."""

  @pytest.fixture
  def archive(
    self, tiny_cifar10: TinyCifar, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
  ) -> pathlib.Path:
    path = tmp_path / 'cifar-10-binary.tar.gz'
    with tarfile.open(path, 'w:gz') as tar:
      tar.add(tiny_cifar10.folder, tiny_cifar10.folder.name)
    published = dataclasses.replace(
      prepare.ARCHIVES['cifar10'], url=path.as_uri(), sha256=prepare._sha256(path)
    )
    monkeypatch.setitem(prepare.ARCHIVES, 'cifar10', published)
    return path

  def test_the_archive_is_downloaded_once(
    self, archive: pathlib.Path, tiny_cifar10: TinyCifar, tmp_path: pathlib.Path
  ):
    data_dir = tmp_path / 'tfds'
    assert runs.status_of('prepare', 'cifar10', f'--data-dir={data_dir}') == 0
    check_against_records('cifar10', data_dir, tiny_cifar10.records)
    assert {path.name for path in data_dir.iterdir()} == {'cifar10', 'downloads'}
    # Gone from where it was published, yet the copy in downloads/ serves another time.
    archive.unlink()
    (data_dir / 'cifar10').rename(tmp_path / 'elsewhere')
    assert runs.status_of('prepare', 'cifar10', f'--data-dir={data_dir}') == 0

  def test_an_altered_archive_is_refused(
    self, archive: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
  ):
    archive.write_bytes(archive.read_bytes()[:-1])
    argv = ['cifar10', f'--data-dir={tmp_path / "tfds"}']
    assert runs.status_of('prepare', *argv) == 2
    assert 'is not the published cifar-10-binary.tar.gz' in capsys.readouterr().err
    assert not (tmp_path / 'tfds' / 'cifar10').exists()

  def test_no_network_is_one_line(
    self, archive: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
  ):
    archive.unlink()
    data_dir = tmp_path / 'tfds'
    error = error_of(['cifar10', f'--data-dir={data_dir}'], capsys)
    assert f'cannot download {archive.as_uri()}' in error
    assert '--source=FOLDER' in error
    assert list(data_dir.iterdir()) == []
