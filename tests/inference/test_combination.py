import numpy as np
import pytest
import scipy.optimize
import scipy.special

from dpoq_jax.inference import combination
from tests.inference import problems


def test_combinations_on_a_worked_example():
  run = [np.array([[0.8, 0.2]]), np.array([[0.2, 0.8]]), np.array([[0.4, 0.6]])]
  mean, last = (combination.plain_weights(name, 3) for name in ('mean', 'last'))
  np.testing.assert_allclose(combination.combined(run, mean[2]), [[1.4 / 3, 1.6 / 3]])
  np.testing.assert_allclose(combination.combined(run[:2], mean[1]), [[0.5, 0.5]])
  np.testing.assert_array_equal(combination.combined(run, last[2]), run[2])
  np.testing.assert_allclose(combination.combined(run, [1, 3, 0]), [[0.35, 0.65]])


def test_fitted_weights_are_the_most_likely():
  examples = problems.examples(400)
  probabilities = scipy.special.softmax(examples.logits.astype(float), axis=-1)
  likelihood = probabilities[:, np.arange(400), examples.labels]
  fitted = combination.fit_weights(examples.logits, examples.labels)
  assert fitted[0] == (1.0,)
  for k in (1, 2):

    def loss(free, k=k):
      weights = scipy.special.softmax(np.append(free, 0))
      return -np.log(weights @ likelihood[: k + 1]).mean()

    found = scipy.optimize.minimize(loss, np.zeros(k))
    ours = -np.log(np.array(fitted[k]) @ likelihood[: k + 1]).mean()
    assert ours <= found.fun + 1e-6
    assert sum(fitted[k]) == pytest.approx(1)
    assert min(fitted[k]) >= 0


def test_weights_of_a_useless_precision_vanish():
  examples = problems.examples(400)
  logits = examples.logits.copy()
  logits[1] = 0  # knows nothing
  assert combination.fit_weights(logits, examples.labels)[2][1] < 0.02


def test_labels_thought_impossible_do_not_break_the_fit():
  logits = np.array([[[0.0, -np.inf], [1, 0]], [[0.0, -np.inf], [0, 1]]])
  weights = combination.fit_weights(logits, np.array([1, 1]))
  assert weights[1][1] == pytest.approx(1, abs=1e-3)
  impossible = combination.fit_weights(logits[:, :1], np.array([1]))
  assert impossible[1] == (0.5, 0.5)
  # The smallest float there is, of which half is 0.
  barely = np.array([[[0.0, -744.9]], [[0.0, -745.0]]])
  assert combination.fit_weights(barely, np.array([1]))[1] == (0.5, 0.5)
