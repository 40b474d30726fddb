import numpy as np
import pytest
import scipy.special

from dpoq_jax.inference import temperature


def test_probabilities_are_the_softmax():
  logits = np.random.default_rng(0).normal(0, 20, (3, 7, 5)).astype(np.float32)
  expected = scipy.special.softmax(logits.astype(np.float64) / 1.7, axis=-1)
  np.testing.assert_allclose(temperature.probabilities(logits, 1.7), expected, rtol=1e-13)
  assert temperature.probabilities(logits).dtype == np.float64


@pytest.mark.parametrize(
  'logits', [[np.nan, 1, 2], [np.inf, 1, 2], [np.inf, -np.inf, 0], [-np.inf] * 3, [np.nan] * 3]
)
def test_logits_that_say_nothing_are_uniform(logits):
  np.testing.assert_array_equal(temperature.probabilities(np.array(logits)), [1 / 3] * 3)


def test_minus_infinity_is_an_impossible_class():
  np.testing.assert_allclose(temperature.probabilities(np.array([-np.inf, 0, 0])), [0, 0.5, 0.5])


def test_an_input_gets_the_same_numbers_alone_and_in_any_layout():
  logits = np.random.default_rng(0).normal(0, 3, (101, 10)).astype(np.float32)
  together = temperature.probabilities(logits)
  np.testing.assert_array_equal(temperature.probabilities(np.asfortranarray(logits)), together)
  for i in range(101):
    np.testing.assert_array_equal(temperature.probabilities(logits[i]), together[i])
    np.testing.assert_array_equal(temperature.probabilities(logits[i : i + 2])[0], together[i])


@pytest.mark.parametrize('factor', [0.25, 1.0, 3.0])
def test_fitted_temperature_undoes_overconfidence(factor):
  rng = np.random.default_rng(0)
  logits = rng.normal(0, 2, (4000, 4))
  labels = np.array([rng.choice(4, p=p) for p in scipy.special.softmax(logits, axis=-1)])
  assert temperature.fit_temperature(logits * factor, labels) == pytest.approx(factor, rel=0.1)


def test_temperature_stays_in_bounds_where_none_is_best():
  logits, labels = np.array([[5.0, 0.0]] * 3), np.array([0, 0, 0])
  assert temperature.fit_temperature(logits, labels) == pytest.approx(0.05, rel=1e-3)
  assert temperature.fit_temperature(logits, 1 - labels) == pytest.approx(20, rel=1e-3)
