"""Tests of `dpoq_jax.data.streamed`, `records`, `workers` and `corrupt`, on a TFDS directory."""

import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

from dpoq_jax.data import corrupt_records, crop
from dpoq_jax.data.order import Order
from tests import conftest
from tests.data import jpegs, read_shard
from tests.data.tiny_imagenet import NAME, load


def assert_same(batches, expected) -> None:
  for batch, other in zip(batches, expected, strict=True):
    assert batch.keys() == other.keys()
    for name, array in batch.items():
      np.testing.assert_array_equal(array, other[name])
      assert array.dtype == other[name].dtype


def ended(process: int) -> bool:
  """Whether a process is gone, or waits for a parent that may never ask for it."""
  try:
    return pathlib.Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()[0] == 'Z'
  except FileNotFoundError:
    return True


def wait_until_ended(processes: list[int]) -> None:
  deadline = time.monotonic() + 60
  while not all(map(ended, processes)):
    assert time.monotonic() < deadline, 'workers outlive their parent'
    time.sleep(0.02)


class TestTraining:
  def test_what_it_says_of_itself(self, jpeg_data_dir: pathlib.Path):
    train = load(jpeg_data_dir)
    assert len(train) == 60
    assert train.class_names == jpegs.CLASSES
    assert train.num_classes == 3
    assert train.image_shape == (32, 32, 3)

  def test_an_epoch_follows_the_order_and_labels_stay_with_their_images(
    self, jpeg_data_dir: pathlib.Path
  ):
    train = load(jpeg_data_dir)
    order = Order(60, 7, 3, 2)
    batches = list(train.training_batches(order))
    expected = [order.epoch(epoch)[:56].reshape(8, 7) for epoch in range(2)]
    np.testing.assert_array_equal([batch['index'] for batch in batches], np.concatenate(expected))
    pairs = [(i, label) for b in batches for i, label in zip(b['index'], b['label'], strict=True)]
    for index, label in pairs[:56]:
      name = train.records.source[int(index)]['file_name'].decode()
      assert int(name[-8:-5]) % 3 == label
    assert batches[0]['image'].shape == (7, 32, 32, 3)
    assert batches[0]['image'].dtype == np.uint8
    assert batches[0]['label'].dtype == np.int32

  def test_crops_follow_from_seed_epoch_and_position(self, jpeg_data_dir: pathlib.Path):
    train = load(jpeg_data_dir)
    one = list(train.training_batches(Order(60, 20, 0, 2)))
    same = list(train.training_batches(Order(60, 10, 0, 2)))
    images = np.concatenate([batch['image'] for batch in one])
    np.testing.assert_array_equal(images, np.concatenate([batch['image'] for batch in same]))
    # Another epoch, other crops of the same images.
    by_index = [
      dict(zip(batch['index'].tolist(), batch['image'], strict=True)) for batch in (one[0], one[3])
    ]
    common = by_index[0].keys() & by_index[1].keys()
    assert common
    assert not any(np.array_equal(by_index[0][i], by_index[1][i]) for i in common)

  def test_workers_change_nothing_and_do_not_hear_signals(self, jpeg_data_dir: pathlib.Path):
    order = Order(60, 8, 0, 2)
    expected = list(load(jpeg_data_dir).training_batches(order, 3))
    batches = load(jpeg_data_dir, workers=2).training_batches(order, 3)
    first = next(batches)
    children = multiprocessing.active_children()
    assert len(children) == 2
    for child in children:
      os.kill(child.pid or 0, signal.SIGTERM)
      os.kill(child.pid or 0, signal.SIGINT)
    assert_same([first, *batches], expected)
    assert not multiprocessing.active_children()

  def test_closed_before_its_end_it_leaves_no_worker(self, jpeg_data_dir: pathlib.Path):
    batches = load(jpeg_data_dir, workers=2).training_batches(Order(60, 8, 0, 20))
    next(batches)
    batches.close()
    assert not multiprocessing.active_children()

  @pytest.mark.parametrize('start', [0, 1, 6, 7, 13, 14])
  def test_resumes_anywhere(self, jpeg_data_dir: pathlib.Path, start: int):
    order = Order(60, 8, 0, 2)
    whole = list(load(jpeg_data_dir).training_batches(order))
    assert_same(load(jpeg_data_dir).training_batches(order, start), whole[start:])

  def test_two_processes_share_out_the_batches_of_one(self, jpeg_data_dir: pathlib.Path):
    train = load(jpeg_data_dir)
    whole = list(train.training_batches(Order(60, 8, 0, 2)))
    shares = [train.training_batches(Order(60, 8, 0, 2, p, 2)) for p in range(2)]
    together = [
      {name: np.concatenate([share[name] for share in pieces]) for name in pieces[0]}
      for pieces in zip(*shares, strict=True)
    ]
    assert_same(together, whole)

  def test_two_processes_killed_and_resumed_see_what_one_sees(self, jpeg_data_dir: pathlib.Path):
    def start(process: int, first: int, hang_after: int) -> subprocess.Popen[str]:
      arguments = map(str, (jpeg_data_dir, process, first, hang_after))
      command = [sys.executable, '-m', read_shard.__name__, *arguments]
      return subprocess.Popen(
        command, cwd=conftest.REPOSITORY, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
      )

    order, batches = read_shard.read(str(jpeg_data_dir), 0, 1, 0, workers=0)
    expected = [batch['index'].tolist() for batch in batches]
    # In mid-epoch, and not at the same step.
    seen: list[list[list[int]]] = [[], []]
    killed = [start(process, 0, hang_after=4 + process) for process in range(2)]
    for process, running in enumerate(killed):
      assert running.stdout is not None
      workers = [int(word) for word in running.stdout.readline().split()]
      assert len(workers) == 2
      seen[process] += [_numbers(running.stdout.readline()) for _ in range(4 + process)]
      running.kill()
      running.communicate()
      wait_until_ended(workers)
    resumed = [start(process, len(seen[process]), hang_after=0) for process in range(2)]
    for process, running in enumerate(resumed):
      out, err = running.communicate(timeout=120)
      assert running.returncode == 0, err
      seen[process] += [_numbers(line) for line in out.splitlines()[1:]]
    assert order.steps == len(expected) == 14
    assert [one + two for one, two in zip(*seen, strict=True)] == expected

  def test_a_part_of_a_set_keeps_its_own_records(self, jpeg_data_dir: pathlib.Path):
    part = load(jpeg_data_dir).take(np.array([5, 50, 7, 9]))
    assert len(part) == 4
    (batch,) = part.training_batches(Order(4, 4, 0, 1))
    assert set(batch['index']) == {5, 50, 7, 9}


class TestEvaluation:
  @pytest.mark.parametrize('workers', [0, 1])
  def test_sees_every_example_once_in_order(self, jpeg_data_dir: pathlib.Path, workers: int):
    test = load(jpeg_data_dir, None, workers=workers)
    batches = list(test.evaluation_batches(5))
    assert [len(batch['label']) for batch in batches] == [5, 5, 5]
    mask = np.concatenate([batch['mask'] for batch in batches])
    assert mask.tolist() == [True] * 13 + [False] * 2
    index = np.concatenate([batch['index'] for batch in batches])[mask]
    assert index.tolist() == list(range(13))
    images = np.concatenate([batch['image'] for batch in batches])
    assert not images[13:].any()
    for number, found in enumerate(images[:13]):
      encoded = test.records.source[number]['image']
      np.testing.assert_array_equal(found, crop.evaluation_crop(encoded, 32, 36))

  def test_reports_on_the_validation_split_unless_told_otherwise(self, jpeg_data_dir: pathlib.Path):
    assert load(jpeg_data_dir, None).records.split == 'validation'
    assert load(jpeg_data_dir, 'train').records.split == 'train'

  def test_its_images_act_like_an_array(self, jpeg_data_dir: pathlib.Path):
    test = load(jpeg_data_dir, None).take(np.array([3, 8]))
    (batch,) = test.evaluation_batches(2)
    assert test.images.shape == batch['image'].shape
    assert test.images.ndim == 4
    assert test.images.dtype == np.uint8
    np.testing.assert_array_equal(test.images[1], batch['image'][1])


class TestCorruptRecords:
  @pytest.fixture
  def damaged(self, copied: pathlib.Path) -> tuple[pathlib.Path, list[int]]:
    """Two training records and a test record that fail their checksums; their positions."""
    numbers = {'train': (3, 17), 'validation': (5,)}
    positions = []
    for split, chosen in numbers.items():
      names = [record['file_name'].decode() for record in load(copied, split).records.source]
      for number in chosen:
        damaged = jpegs.damage(copied / NAME / '1.0.0', split, number)
        positions.append(names.index(f'{split}_{damaged:03}.JPEG'))
    return copied, positions

  @pytest.mark.parametrize('workers', [0, 1])
  def test_training_goes_on_with_the_next_intact_one(self, damaged, workers: int):
    data_dir, (one, two, _) = damaged
    train = load(data_dir, workers=workers, max_corrupt=2)
    order = Order(60, 10, 0, 2)
    with pytest.warns(UserWarning, match='skipping corrupt record train record') as caught:
      batches = list(train.training_batches(order))
    # Once each, though each is met in both epochs.
    assert len([w for w in caught if 'skipping' in str(w.message)]) == 2
    assert train.tally.records.keys() == {f'train record {one}', f'train record {two}'}
    assert all('hash mismatch' in reason for reason in train.tally.records.values())
    expected = []
    for epoch in range(2):
      shuffled = order.epoch(epoch).tolist()
      followed = shuffled + shuffled
      for position in range(60):
        rest = (index for index in followed[position:] if index not in (one, two))
        expected.append(next(rest))
    assert np.concatenate([batch['index'] for batch in batches]).tolist() == expected

  def test_evaluation_leaves_them_out(self, damaged):
    data_dir, (*_, position) = damaged
    test = load(data_dir, None, max_corrupt=1)
    with pytest.warns(UserWarning, match=f'validation record {position}: Corrupted'):
      batches = list(test.evaluation_batches(13))
    assert np.flatnonzero(~batches[0]['mask']).tolist() == [position]
    assert not batches[0]['image'][position].any()

  def test_one_more_than_allowed_is_an_error(self, damaged):
    data_dir, (one, two, _) = damaged
    train = load(data_dir, max_corrupt=1)
    with (
      warnings.catch_warnings(action='ignore'),
      pytest.raises(
        corrupt_records.CorruptRecordsError,
        match=r'^2 corrupt records, more than config\.data\.max_corrupt=1, the last one train '
        rf'record ({one}|{two}): .*hash mismatch',
      ),
    ):
      list(train.training_batches(Order(60, 10, 0, 1)))

  def test_a_resumed_run_has_met_what_it_had_met(self, damaged):
    data_dir, _ = damaged
    train, order = load(data_dir, max_corrupt=2), Order(60, 10, 0, 1)
    with pytest.warns(UserWarning, match='skipping'):
      list(train.training_batches(order))
    resumed = load(data_dir, max_corrupt=2)
    resumed.tally.restore(json.loads(json.dumps(train.tally.records)))
    # Not warned of again: a warning would be an error here.
    list(resumed.training_batches(order))
    assert resumed.tally.records == train.tally.records

  def test_broken_images_and_labels_are_named_by_their_file(self, tmp_path: pathlib.Path):
    records = list(jpegs.examples('validation'))[:4]
    records[0]['image'] = records[0]['image'][:200]
    records[1]['image'] = b'no image'
    records[2]['label'] = -1
    jpegs.write(tmp_path, {'train': records, 'test': records})
    test = load(tmp_path, 'test', max_corrupt=3)
    with pytest.warns(UserWarning, match=r'test record \d \(validation_00[012].JPEG\): '):
      (batch,) = test.evaluation_batches(4)
    assert batch['mask'].sum() == 1
    reasons = sorted(reason.partition(':')[0] for reason in test.tally.records.values())
    assert reasons[1:] == ['label -1 is none of 3 classes', 'no image that is read']

  def test_a_set_with_nothing_intact_is_an_error_not_an_endless_search(
    self, tmp_path: pathlib.Path
  ):
    records = [record | {'image': b''} for record in list(jpegs.examples('validation'))[:4]]
    jpegs.write(tmp_path, {'train': records})
    train = load(tmp_path, max_corrupt=10)
    with (
      warnings.catch_warnings(action='ignore'),
      pytest.raises(
        corrupt_records.CorruptRecordsError, match='none of 4 records of split train is intact'
      ),
    ):
      list(train.training_batches(Order(4, 2, 0, 1)))


def _numbers(line: str) -> list[int]:
  return [int(word) for word in line.split()]
