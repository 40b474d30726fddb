import numpy as np
import pytest

from dpoq_jax.inference import combination, exits
from tests.inference import problems


def test_blocks_change_nothing(monkeypatch):
  examples = problems.examples(50)
  whole = exits.evaluate(examples.logits, examples.labels, combination.plain_weights('mean', 3))
  monkeypatch.setattr(exits, '_BLOCK', 7 * 3 * 5)
  blocks = exits.evaluate(examples.logits, examples.labels, combination.plain_weights('mean', 3))
  np.testing.assert_array_equal(whole.confidence, blocks.confidence)
  np.testing.assert_array_equal(whole.correct, blocks.correct)


def test_leaving_rests_on_one_precision_and_the_prediction_on_all_that_were_run():
  examples, temperatures = problems.examples(40), (0.5, 2.0, 3.0)
  weights = ((1.0,), (1.0, 3.0), (2.0, 0.0, 1.0))
  found = exits.evaluate(examples.logits, examples.labels, weights, temperatures)
  assert found.confidence.dtype == np.float64
  assert found.correct.dtype == bool
  for i, label in enumerate(examples.labels):
    run = []
    for k, temperature in enumerate(temperatures):
      exponentials = np.exp(examples.logits[k, i].astype(np.float64) / temperature)
      run.append(exponentials / exponentials.sum())
      assert found.confidence[k, i] == pytest.approx(run[k].max(), rel=1e-12)
      total = np.sum([w * p for w, p in zip(weights[k], run, strict=True)], axis=0)
      assert found.correct[k, i] == (total.argmax() == label)
