import numpy as np
import pytest
import scipy.optimize
import scipy.special

from dpoq_jax.inference import exits
from tests.inference import problems


def test_probabilities_are_the_softmax():
  logits = np.random.default_rng(0).normal(0, 20, (3, 7, 5)).astype(np.float32)
  expected = scipy.special.softmax(logits.astype(np.float64) / 1.7, axis=-1)
  np.testing.assert_allclose(exits.probabilities(logits, 1.7), expected, rtol=1e-13)
  assert exits.probabilities(logits).dtype == np.float64


@pytest.mark.parametrize(
  'row', [[np.nan, 1, 2], [np.inf, 1, 2], [np.inf, -np.inf, 0], [-np.inf] * 3, [np.nan] * 3]
)
def test_logits_that_say_nothing_are_uniform(row):
  np.testing.assert_array_equal(exits.probabilities(np.array(row)), [1 / 3] * 3)


def test_minus_infinity_is_an_impossible_class():
  np.testing.assert_allclose(exits.probabilities(np.array([-np.inf, 0, 0])), [0, 0.5, 0.5])


def test_an_input_gets_the_same_numbers_alone_and_in_any_layout():
  logits = np.random.default_rng(0).normal(0, 3, (101, 10)).astype(np.float32)
  together = exits.probabilities(logits)
  np.testing.assert_array_equal(exits.probabilities(np.asfortranarray(logits)), together)
  for i in range(101):
    np.testing.assert_array_equal(exits.probabilities(logits[i]), together[i])
    np.testing.assert_array_equal(exits.probabilities(logits[i : i + 2])[0], together[i])


def test_combinations_on_a_worked_example():
  run = [np.array([[0.8, 0.2]]), np.array([[0.2, 0.8]]), np.array([[0.4, 0.6]])]
  mean, last = (exits.plain_weights(name, 3) for name in ('mean', 'last'))
  np.testing.assert_allclose(exits.combined(run, mean[2]), [[1.4 / 3, 1.6 / 3]])
  np.testing.assert_allclose(exits.combined(run[:2], mean[1]), [[0.5, 0.5]])
  np.testing.assert_array_equal(exits.combined(run, last[2]), run[2])
  np.testing.assert_allclose(exits.combined(run, [1, 3, 0]), [[0.35, 0.65]])


def test_blocks_change_nothing(monkeypatch):
  examples = problems.examples(50)
  whole = exits.evaluate(examples.logits, examples.labels, exits.plain_weights('mean', 3))
  monkeypatch.setattr(exits, '_BLOCK', 7 * 3 * 5)
  blocks = exits.evaluate(examples.logits, examples.labels, exits.plain_weights('mean', 3))
  np.testing.assert_array_equal(whole.confidence, blocks.confidence)
  np.testing.assert_array_equal(whole.correct, blocks.correct)


def test_fitted_weights_are_the_most_likely():
  examples = problems.examples(400)
  probabilities = scipy.special.softmax(examples.logits.astype(float), axis=-1)
  likelihood = probabilities[:, np.arange(400), examples.labels]
  fitted = exits.fit_weights(examples.logits, examples.labels)
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
  assert exits.fit_weights(logits, examples.labels)[2][1] < 0.02


def test_labels_thought_impossible_do_not_break_the_fit():
  logits = np.array([[[0.0, -np.inf], [1, 0]], [[0.0, -np.inf], [0, 1]]])
  weights = exits.fit_weights(logits, np.array([1, 1]))
  assert weights[1][1] == pytest.approx(1, abs=1e-3)
  impossible = exits.fit_weights(logits[:, :1], np.array([1]))
  assert impossible[1] == (0.5, 0.5)


@pytest.mark.parametrize('factor', [0.25, 1.0, 3.0])
def test_fitted_temperature_undoes_overconfidence(factor):
  rng = np.random.default_rng(0)
  logits = rng.normal(0, 2, (4000, 4))
  labels = np.array([rng.choice(4, p=p) for p in scipy.special.softmax(logits, axis=-1)])
  assert exits.fit_temperature(logits * factor, labels) == pytest.approx(factor, rel=0.1)


def test_temperature_stays_in_bounds_where_none_is_best():
  logits, labels = np.array([[5.0, 0.0]] * 3), np.array([0, 0, 0])
  assert exits.fit_temperature(logits, labels) == pytest.approx(0.05, rel=1e-3)
  assert exits.fit_temperature(logits, 1 - labels) == pytest.approx(20, rel=1e-3)
