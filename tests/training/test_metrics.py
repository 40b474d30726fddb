import json
import pathlib
import threading

import numpy as np
import pytest
import scipy.special

from dpoq_jax.training import evaluation, metrics

TRAINED = {'learning_rate': 0.1, 'top1': {'2': 0.25}, 'skipped': 0}
ROWS = [
  {'step': 5, 'kind': 'train', 'epoch': 0.5, 'loss': {'2': 1.0}, **TRAINED},
  {'step': 10, 'kind': 'eval', 'epoch': 1.0, 'loss': {}, 'top1': {'2': 0.75, '4': 0.5}},
  {'step': 20, 'kind': 'eval', 'epoch': 2.0, 'loss': {}, 'top1': {'2': 0.25, '4': 0.625}},
]
LINES = [json.dumps(row) for row in ROWS]


def test_rows_after_the_restored_step_are_dropped_and_come_again(tmp_path: pathlib.Path):
  log = metrics.MetricsLog(tmp_path, step=0)
  for row in ROWS:
    log.write(row, speed=1.0)
  log.close()
  # A process killed in mid-write leaves half a line.
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 25, "ki')
  log = metrics.MetricsLog(tmp_path, step=10)
  log.write(ROWS[2])
  log.close()
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line) for line in lines] == ROWS


@pytest.mark.parametrize(
  ('number', 'line', 'reason'),
  [
    (0, LINES[0][:-9], 'line 1, is no row of metrics (no JSON'),
    (1, '', 'line 2, is no row of metrics (no JSON'),
    (2, '\0' * 50, 'line 3, is no row of metrics (no JSON'),
    (1, '{"step": 10}', 'line 2, is no row of metrics (row: Unable to extract tag'),
    (1, LINES[1].replace('"epoch": 1.0, ', ''), 'line 2, is no row of metrics (epoch: Field'),
    (1, LINES[1].replace('0.75', '7.5'), 'line 2, is no row of metrics (top1.2: Input should be'),
    (1, LINES[1].replace('"2"', '"x"'), 'line 2, is no row of metrics (top1.x.[key]: String'),
    (1, LINES[1].replace('10', '"10"'), 'line 2, is no row of metrics (step: Input should be'),
    (1, LINES[2], 'line 3, is no row of metrics (step 20 comes after step 20)'),
    (2, LINES[0], 'line 3, is no row of metrics (step 5 comes after step 10)'),
    (1, '[' * 100_000, 'line 2, is no row of metrics (no JSON'),
  ],
)
def test_any_other_damage_is_an_error_and_the_file_stays(
  tmp_path: pathlib.Path, number: int, line: str, reason: str
):
  path = tmp_path / 'metrics.jsonl'
  lines = [*LINES]
  lines[number] = line
  path.write_text('\n'.join(lines) + '\n')
  before = path.read_bytes()
  for read in (metrics.read_rows, lambda workdir: metrics.MetricsLog(workdir, step=20)):
    with pytest.raises(metrics.MetricsError) as error:
      read(tmp_path)
    assert f'{path}, {reason}' in str(error.value)
    assert '\n' not in str(error.value)
  assert path.read_bytes() == before


@pytest.mark.parametrize('torn', [LINES[2][:-1], '\0' * 500, '{', '\xff'])
def test_a_torn_last_line_does_not_count(tmp_path: pathlib.Path, torn: str):
  (tmp_path / 'metrics.jsonl').write_bytes('\n'.join([*LINES[:2], torn]).encode('latin-1'))
  assert metrics.read_rows(tmp_path) == ROWS[:2]


def test_a_last_line_without_its_line_feed_counts(tmp_path: pathlib.Path):
  (tmp_path / 'metrics.jsonl').write_text('\n'.join(LINES))
  assert metrics.read_rows(tmp_path) == ROWS
  # And the next row does not continue it.
  log = metrics.MetricsLog(tmp_path, step=20)
  log.write({**ROWS[2], 'step': 30})
  log.close()
  assert [row['step'] for row in metrics.read_rows(tmp_path)] == [5, 10, 20, 30]


def test_events_are_written_at_once_not_by_a_thread_that_a_full_disk_ends(tmp_path: pathlib.Path):
  log = metrics.MetricsLog(tmp_path, step=0)
  running = {thread.name for thread in threading.enumerate()}
  for step in range(1, 40):
    log.write({**ROWS[1], 'step': step}, speed=1.0)
  assert {thread.name for thread in threading.enumerate()} == running
  log.close()
  [events] = (tmp_path / 'tensorboard').iterdir()
  assert events.read_bytes().count(b'eval/top1/2_bits') == 39


def test_best_is_of_each_precision_by_itself():
  assert metrics.best_top1(ROWS) == {2: 0.75, 4: 0.625}
  assert metrics.best_top1(ROWS[:1]) == {}


def test_accuracies_of_each_precision_and_of_the_ensembles_below_it():
  # Three examples, two classes, labels 0 0 1; scores are log-probabilities of class 0 and 1.
  probability = np.array([[0.9, 0.4, 0.4], [0.3, 0.8, 0.6]])
  logits = np.log(np.stack([probability, 1 - probability], axis=-1))
  predictions = evaluation.Evaluation((2, 4), logits, np.array([0, 0, 1]), np.arange(3))
  # 2 bits: right on the first and third; 4 bits: right on the second alone.
  assert predictions.top1() == {2: 2 / 3, 4: 1 / 3}
  # Means of class 0: 0.6, 0.6, 0.5 - a tie, which goes to class 0 and is wrong.
  mean = scipy.special.softmax(logits, axis=-1).mean(axis=0)
  expected = float(np.mean(np.argmax(mean, axis=-1) == [0, 0, 1]))
  assert predictions.ensemble_top1() == {2: 2 / 3, 4: expected}
  right = np.array([[0.9, 0.4, 0.6], [0.3, 0.8, 0.4]])
  for precision, loss in zip((2, 4), -np.log(right).mean(axis=1), strict=True):
    np.testing.assert_allclose(predictions.loss()[precision], loss)
