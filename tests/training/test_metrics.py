import json
import pathlib

import numpy as np
import scipy.special

from dpoq_jax.training import evaluation, metrics

ROWS = [
  {'step': 5, 'kind': 'train', 'loss': {'2': 1.0}},
  {'step': 10, 'kind': 'eval', 'top1': {'2': 0.75, '4': 0.5}},
  {'step': 20, 'kind': 'eval', 'top1': {'2': 0.25, '4': 0.625}},
]


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
