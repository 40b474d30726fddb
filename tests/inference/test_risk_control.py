import itertools
import math

import numpy as np
import pytest
import scipy.stats

from dpoq_jax.inference import risk_control


def losses(gained: int, lost: int, count: int, seed: int = 0) -> np.ndarray:
  """Returns so many losses of -1 and 1, the rest 0, in random order."""
  values = np.zeros(count, np.int64)
  values[:gained], values[gained : gained + lost] = -1, 1
  return np.random.default_rng(seed).permutation(values)


def gambler(values: np.ndarray, limit: float, confidence: float) -> float:
  """Returns the most that a gambler ever has, one bet after the other, as the paper writes it."""
  goal, count = math.log(1 / (1 - confidence)), len(values)
  capital = most = 1.0
  total, squares, variance = 0.5, 0.25, 0.25
  for index, value in enumerate((values + 1) / 2, start=1):
    stake = min(1.0, math.sqrt(2 * goal / (count * variance)))
    capital *= 1 + stake * ((limit + 1) / 2 - value)
    most = max(most, capital)
    total += value
    squares += (value - total / (index + 1)) ** 2
    variance = squares / (index + 1)
  return most


@pytest.mark.parametrize('confidence', [0.8, 0.9, 0.99])
@pytest.mark.parametrize('share', [0.01, 0.1, 0.5, 0.93])
def test_the_binomial_bound_covers_exactly_as_often_as_it_says(share, confidence):
  """Every outcome of 30 examples, by its probability: the bound errs at most so often."""
  outcomes = [losses(0, lost, 30) for lost in range(31)]
  bounds = np.array([risk_control.upper_bound(each, confidence, 'binomial') for each in outcomes])
  probabilities = scipy.stats.binom.pmf(np.arange(31), 30, share)
  assert probabilities[bounds < share].sum() <= 1 - confidence
  # Exact: of the next smaller set of outcomes that it might exclude, the probability is too high.
  excluded = int((bounds < share).sum())
  assert probabilities[: excluded + 1].sum() > 1 - confidence
  for each, bound in zip(outcomes[:-1], bounds, strict=False):
    assert risk_control.is_below(each, bound + 1e-9, confidence, 'binomial')
    assert not risk_control.is_below(each, bound - 1e-9, confidence, 'binomial')


def test_no_losses_at_all_follow_the_rule_of_three():
  bound = risk_control.upper_bound(losses(0, 0, 1000), 0.95, 'binomial')
  assert bound == pytest.approx(1 - 0.05 ** (1 / 1000))
  assert bound == pytest.approx(3 / 1000, rel=0.01)
  assert risk_control.upper_bound(losses(0, 9, 9), 0.95, 'binomial') == 1


@pytest.mark.parametrize('test', ['betting', 'binomial'])
@pytest.mark.parametrize(
  ('gain', 'loss'), [(0.0, 0.3), (0.0, 0.1), (0.1, 0.4), (0.35, 0.65), (0.2, 0.3), (0.45, 0.5)]
)
def test_neither_test_errs_oftener_than_it_says(gain, loss, test):
  """All 3^6 outcomes of six examples whose mean is the limit, each by its probability."""
  confidence, limit = 0.8, loss - gain
  probability = {-1: gain, 0: 1 - gain - loss, 1: loss}
  errs = sum(
    math.prod(probability[value] for value in values)
    for values in itertools.product((-1, 0, 1), repeat=6)
    if risk_control.is_below(np.array(values), limit, confidence, test)
  )
  assert errs <= 1 - confidence + 1e-12


def test_betting_can_err_at_all():
  assert risk_control.is_below(losses(8, 0, 8), 0.0, 0.8, 'betting')
  assert risk_control.is_below(losses(0, 0, 8), 0.3, 0.8, 'binomial')
  assert not risk_control.is_below(losses(0, 0, 8), 0.1, 0.8, 'binomial')
  assert not risk_control.is_below(losses(8, 0, 8), -0.1, 0.8, 'binomial')


CASES = [(0, 3, 400), (5, 9, 400), (40, 38, 1000), (150, 160, 2000), (0, 0, 300), (20, 90, 300)]


@pytest.mark.parametrize('case', CASES)
def test_capital_is_what_one_bet_after_the_other_makes(case):
  values = losses(*case)
  for limit in (-0.05, 0.0, 0.02, 0.1, 0.4):
    most = gambler(values, limit, 0.9)
    assert risk_control.is_below(values, limit, 0.9, 'betting') == (
      most >= 10 and values.mean() <= limit
    )
  bound = risk_control.upper_bound(values, 0.9, 'betting')
  assert gambler(values, bound, 0.9) == pytest.approx(10, rel=1e-6)


@pytest.mark.parametrize('confidence', [0.8, 0.95])
@pytest.mark.parametrize(
  'case', [(0, 0, 300), (0, 3, 400), (2, 2, 300), (5, 9, 400), (20, 90, 300)]
)
def test_bounds_are_those_of_mapie(case, confidence):
  """MAPIE adds what the capital was at most within each half: more than it was, but at their ends.

  It is largest there in this order, if losses are few.
  """
  methods = pytest.importorskip('mapie.risk_control.methods')
  halves = np.split(losses(*case), 2)
  values = np.concatenate([np.sort(half)[::-1] for half in halves])
  grid = np.linspace(0, 1, 101)
  # MAPIE bounds a column for each limit; all are the same here.
  scaled = np.repeat((values[:, None] + 1) / 2, len(grid), axis=1)
  _, above = methods.get_r_hat_plus(scaled, grid, 'rcps', 'wsr', 1 - confidence, 0.25)
  bound = (risk_control.upper_bound(values, confidence, 'betting') + 1) / 2
  rejected = grid[grid >= bound][0]
  if case[1] < 10:
    assert above[0] == pytest.approx(rejected, abs=1e-9)
  else:
    assert above[0] <= rejected


@pytest.mark.parametrize(('lost', 'count'), [(0, 300), (3, 300), (3, 800), (40, 800), (12, 5000)])
def test_binomial_p_values_bound_those_of_mapie(lost, count):
  """MAPIE takes the smaller of two, of which the exact one is ours."""
  methods = pytest.importorskip('mapie.risk_control.methods')
  values, limit = losses(0, lost, count), 0.01
  (p_value,) = methods.compute_hoeffding_bentkus_p_value(
    np.array([lost / count]), count, limit, binary=True
  ).ravel()
  exact = scipy.stats.binom.cdf(lost, count, limit)
  assert p_value <= exact + 1e-12
  for confidence in (0.5, 0.8, 0.9, 0.99):
    below = risk_control.is_below(values, limit, confidence, 'binomial')
    assert below == (exact <= 1 - confidence)


def test_mapie_rejects_a_fixed_sequence_up_to_the_first_that_fails():
  """What `promise` relies on: each is tested at the whole level, and the first failure ends it."""
  fwer_control = pytest.importorskip('mapie.risk_control.fwer_control')
  p_values = np.array([0.01, 0.09, 0.02, 0.2, 0.001])
  assert list(fwer_control.control_fwer(p_values, 0.1, 'fixed_sequence')) == [0, 1, 2]


@pytest.mark.parametrize('test', ['betting', 'binomial'])
def test_more_losses_and_more_confidence_raise_the_bound(test):
  bounds = [risk_control.upper_bound(losses(0, lost, 500), 0.9, test) for lost in (0, 2, 10, 50)]
  assert bounds == sorted(set(bounds))
  assert all(bound > lost / 500 for bound, lost in zip(bounds, (0, 2, 10, 50), strict=True))
  by_confidence = [risk_control.upper_bound(losses(0, 9, 500), c, test) for c in (0.6, 0.9, 0.99)]
  assert by_confidence == sorted(set(by_confidence))


def test_a_bound_is_not_below_what_was_measured():
  """A gambler who had enough before the losses came would not care for them."""
  values = np.concatenate([np.zeros(100, int), np.ones(100, int)])
  assert gambler(values, 0.4, 0.8) > 5
  assert not risk_control.is_below(values, 0.4, 0.8, 'betting')
  assert risk_control.upper_bound(values, 0.8, 'betting') == 0.5
  assert risk_control.is_below(values, 0.5, 0.8, 'betting')


def test_gains_count_in_bets_alone():
  fair = losses(30, 30, 1000)
  assert risk_control.upper_bound(fair, 0.9, 'betting') < 0.03
  assert risk_control.upper_bound(fair, 0.9, 'binomial') > 0.03
  assert risk_control.suited_test(fair) == 'betting'
  assert risk_control.suited_test(losses(0, 30, 1000)) == 'binomial'


def test_examples_needed_are_enough_and_one_less_is_not():
  needed = risk_control.examples_needed(losses(0, 0, 100), 0.005, 0.9, 'binomial')
  assert needed == 460
  assert risk_control.is_below(losses(0, 0, 460), 0.005, 0.9, 'binomial')
  assert not risk_control.is_below(losses(0, 0, 459), 0.005, 0.9, 'binomial')
  # With losses, Chernoff's bound is a little more than enough.
  needed = risk_control.examples_needed(losses(0, 1, 1000), 0.005, 0.9, 'binomial')
  assert needed is not None
  assert risk_control.is_below(losses(0, round(needed / 1000), needed), 0.005, 0.9, 'binomial')


def test_examples_needed_for_bets_are_about_right():
  """Examples like those measured are rejected in some orders with fewer, in most with more."""
  needed = risk_control.examples_needed(losses(30, 32, 1000), 0.01, 0.9, 'betting')
  assert needed is not None

  def rejected(count: int) -> float:
    gained, lost = round(0.030 * count), round(0.032 * count)
    tried = [losses(gained, lost, count, seed) for seed in range(30)]
    return float(np.mean([risk_control.is_below(each, 0.01, 0.9, 'betting') for each in tried]))

  assert rejected(needed // 2) < 0.5
  assert rejected(needed * 3 // 2) == 1


def test_no_number_of_examples_shows_what_is_not_so():
  assert risk_control.examples_needed(losses(0, 10, 1000), 0.01, 0.9, 'binomial') is None
  assert risk_control.examples_needed(losses(10, 30, 1000), 0.01, 0.9, 'betting') is None
  assert risk_control.examples_needed(losses(0, 0, 1000), 0.0, 0.9, 'binomial') is None


@pytest.mark.parametrize(('gained', 'lost'), [(0, 10), (14, 24), (38, 48)])
def test_no_number_of_examples_shows_a_mean_that_is_the_limit(gained, lost):
  """Whichever way the difference of two shares is rounded."""
  for test in ('betting', 'binomial'):
    values = losses(gained, lost, 5000)
    assert risk_control.examples_needed(values, 0.002, 0.9, test) is None


def test_a_mean_just_below_the_limit_needs_many_examples():
  """By the normal approximation of the best bet: 2 x goal x variance / difference squared."""
  for beside in (1e-4, 1e-6, 1e-8):
    needed = risk_control.examples_needed(losses(100, 110, 1000), 0.01 + beside, 0.9, 'betting')
    assert needed == pytest.approx(2 * math.log(10) * 0.21 / beside**2, rel=0.01)
