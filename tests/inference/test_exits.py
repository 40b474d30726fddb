import numpy as np

from dpoq_jax.inference import combination, exits
from tests.inference import problems


def test_blocks_change_nothing(monkeypatch):
  examples = problems.examples(50)
  whole = exits.evaluate(examples.logits, examples.labels, combination.plain_weights('mean', 3))
  monkeypatch.setattr(exits, '_BLOCK', 7 * 3 * 5)
  blocks = exits.evaluate(examples.logits, examples.labels, combination.plain_weights('mean', 3))
  np.testing.assert_array_equal(whole.confidence, blocks.confidence)
  np.testing.assert_array_equal(whole.correct, blocks.correct)
