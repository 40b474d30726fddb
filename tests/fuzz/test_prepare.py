"""Damaged sources of `dpoq_jax.data.prepare`, and damaged data sets that it wrote."""

from collections.abc import Iterator
import contextlib
import pathlib
import shutil

import numpy as np
import pytest

from dpoq_jax.data import corrupt_records, examples, in_memory, streamed
from tests.data import tiny_cifar
from tests.end_to_end import runs
from tests.fuzz import mutations


@mutations.counts
def test_damaged_sources_are_one_line_and_leave_nothing(
  count: int,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
):
  rng = np.random.default_rng(3)
  tiny = tiny_cifar.write('cifar10', tmp_path / 'binaries', monkeypatch)
  data_dir = tmp_path / 'data'
  files = sorted(tiny.folder.iterdir())
  argv = ['cifar10', f'--data-dir={data_dir}', f'--source={tiny.parent}']
  written = 0
  with mutations.no_hang(10 + count):
    for number in range(count):
      # The class names, which have no checksum, every other time.
      path = tiny.folder / 'batches.meta.txt' if number % 2 else files[rng.integers(len(files))]
      whole = path.read_bytes()
      damaged = mutations.mutated_bytes(rng, whole)
      path.write_bytes(damaged)
      status = runs.status_of('prepare', *argv)
      out, err = capsys.readouterr()
      if status == 0:
        # Ten other names, or no damage: a data set all the same.
        written += 1
        names = in_memory.load('cifar10', 'test', data_dir).class_names
        assert len(set(names)) == 10
        assert 'written to' in out
        shutil.rmtree(data_dir)
      else:
        assert status == 2
        assert out == ''
        assert err.startswith('error: ')
        assert err.count('\n') == 1
        assert err[:-1].isprintable()
        assert not list(data_dir.glob('cifar10/*'))
      path.write_bytes(whole)
  assert written < count


def each_damaged(version: pathlib.Path, count: int, seed: int) -> Iterator[pathlib.Path]:
  """Yields a file of a data set, and it is damaged until the next one is asked for."""
  rng = np.random.default_rng(seed)
  # What is kept of the decoded images, too, if it is there.
  files = sorted(path for path in version.rglob('*') if path.is_file())
  for _ in range(count):
    path = files[rng.integers(len(files))]
    whole = path.read_bytes()
    if path.suffix == '.json' and rng.integers(2):
      path.write_text(mutations.mutated_json(rng, whole.decode()), 'utf-8', 'surrogatepass')
    else:
      path.write_bytes(mutations.mutated_bytes(rng, whole))
    yield path
    path.write_bytes(whole)


@mutations.counts
def test_damaged_data_sets_are_read_whole_or_refused_in_one_line(
  count: int, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
  tiny = tiny_cifar.write('cifar10', tmp_path / 'binaries', monkeypatch)
  version = tiny_cifar.prepared(tiny, tmp_path)
  whole = in_memory.load('cifar10', 'train', tmp_path)
  said: list[str] = []
  with mutations.no_hang(10 + count / 10):
    for path in each_damaged(version, count, seed=4):
      try:
        found = in_memory.load('cifar10', 'train', tmp_path)
      except (ValueError, FileNotFoundError) as error:
        said.append(str(error))
      else:
        assert np.array_equal(found.images, whole.images), path.name
        assert np.array_equal(found.labels, whole.labels), path.name
  assert 0 < len(said) < count
  start = 'data set cifar10 in '
  assert not [line for line in said if not line.startswith(start) or '\n' in line]


@mutations.counts
def test_damaged_data_sets_are_streamed_whole_or_refused_in_one_line(
  count: int, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
  tiny = tiny_cifar.write('cifar10', tmp_path / 'binaries', monkeypatch)
  version = tiny_cifar.prepared(tiny, tmp_path)
  options = streamed.Options(image_size=32, resize=32)

  def read() -> examples.Batch:
    """Returns all of the set as one batch."""
    found = streamed.load(str(version), 'train', None, options, corrupt_records.Tally(0))
    with contextlib.closing(found.evaluation_batches(len(found))) as batches:
      return next(batches)

  whole = read()
  said: list[str] = []
  with mutations.no_hang(10 + count / 10):
    for path in each_damaged(version, count, seed=6):
      try:
        found = read()
      except (ValueError, FileNotFoundError, corrupt_records.CorruptRecordsError) as error:
        said.append(str(error))
      else:
        for name, array in whole.items():
          assert np.array_equal(found[name], array), (path.name, name)
  assert 0 < len(said) < count
  starts = (f'data set {version}', '1 corrupt records, ')
  assert not [line for line in said if not line.startswith(starts) or '\n' in line]
