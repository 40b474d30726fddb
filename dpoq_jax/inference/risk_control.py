"""Bounds the mean of losses on new data from losses on examples, at a confidence.

A loss is -1, 0 or 1: what early exit loses on an example against the highest precision alone, which
may be a gain. Two tests of "the mean is above a limit" that need no more than independent examples:

* Betting (Waudby-Smith and Ramdas, 2024). A gambler stakes a part of the capital on each loss
  being below the limit, in turn, at odds that are fair if the mean is the limit. If the mean is
  above, the capital ever grows to 1 / (1 - confidence) with a probability of at most 1 - confidence
  (Ville).
* Binomial, exact (Clopper and Pearson, 1934), for losses of 0 and 1 alone. A loss of -1 counts as
  0, so that the test holds for all losses, but is weak where there are many.

A limit that one of them rejects is an upper bound of the mean; the smallest is the bound.
"""

import math
from typing import Any, Literal

import numpy as np
import scipy

Test = Literal['betting', 'binomial']

# SciPy comes without types.
_scipy: Any = scipy

# Halvings of an interval of length 1: what is left of it is far less than one example.
_HALVINGS = 50

# A mean this close to a limit is equal to it, but for rounding; far less than one example.
_TOLERANCE = 1e-9

# Stakes that are tried, as shares of the highest: the closer a mean is to the limit, the smaller
# the best one is.
_SHARES = np.geomspace(1e-10, 1, 4001)


def suited_test(losses: np.ndarray) -> Test:
  """Returns the test for examples of which these are others: binomial if none of them is a gain.

  Either test holds whatever the examples; the choice must not depend on those that are then tested.

  Args:
    losses: int [examples], each -1, 0 or 1.
  """
  return 'betting' if (losses < 0).any() else 'binomial'


def is_below(losses: np.ndarray, limit: float, confidence: float, test: Test) -> bool:
  """Returns whether the mean loss on new data is at most a limit, at a confidence.

  Args:
    losses: int [examples], each -1, 0 or 1, in an order that has nothing to do with them.
    limit: limit of the mean, in [-1, 1].
    confidence: probability with which "True" is right, at least.
    test: how to find out.
  """
  if test == 'binomial':
    if limit < 0:
      return False
    lost, count = int((losses > 0).sum()), len(losses)
    return bool(_scipy.special.bdtr(lost, count, limit) <= 1 - confidence)
  if losses.mean() > limit:
    # The capital may have been large enough before the losses came: right as often, but absurd.
    return False
  scaled = (losses + 1) / 2
  return _largest_capital(scaled, _stakes(scaled, confidence), (limit + 1) / 2) >= _goal(confidence)


def upper_bound(losses: np.ndarray, confidence: float, test: Test) -> float:
  """Returns the smallest limit that `is_below` finds the mean to be below; 1 if there is none.

  Args:
    losses: as for `is_below`.
    confidence: as for `is_below`.
    test: as for `is_below`.
  """
  if test == 'binomial':
    lost, count = int((losses > 0).sum()), len(losses)
    return (
      float(_scipy.special.betaincinv(lost + 1, count - lost, confidence)) if lost < count else 1
    )
  scaled = (losses + 1) / 2
  stakes = _stakes(scaled, confidence)
  # The stakes do not depend on the limit, so that the capital rises with it.
  below, above = 0.0, 1.0
  for _ in range(_HALVINGS):
    middle = (below + above) / 2
    enough = _largest_capital(scaled, stakes, middle) >= _goal(confidence)
    below, above = (below, middle) if enough else (middle, above)
  return max(2 * above - 1, float(losses.mean()))


def examples_needed(losses: np.ndarray, limit: float, confidence: float, test: Test) -> int | None:
  """Returns how many examples with losses like these show that their mean is below a limit.

  The logarithm of the capital grows by the same amount with every example, on average, and fastest
  at the best constant stake; for losses of 0 and 1 that is Chernoff's bound of the binomial.

  Args:
    losses: int [examples], each -1, 0 or 1.
    limit: limit of the mean.
    confidence: as for `is_below`.
    test: as for `is_below`.

  Returns:
    The number; None if the mean of these is not below the limit, as then none is enough.
  """
  values = np.array([-1, 0, 1])
  shares = (losses[:, None] == values).mean(axis=0)
  if test == 'binomial':
    shares = np.array([0.0, shares[0] + shares[1], shares[2]])
  if shares @ values > limit - _TOLERANCE:
    return None
  # At the highest stake a loss takes all capital in the binomial test, half of it in the other.
  highest = 1 / (1 - limit) if test == 'binomial' else 0.5
  stakes = highest * _SHARES[:, None]
  with np.errstate(divide='ignore'):
    # A loss that never occurred has no part in the growth, even if it would take everything.
    growth = np.where(shares > 0, np.log1p(stakes * (limit - values)), 0.0) @ shares
  return math.ceil(_goal(confidence) / growth.max())


def _goal(confidence: float) -> float:
  """Returns the logarithm of the capital at which a limit is rejected."""
  return -math.log(1 - confidence)


def _stakes(scaled: np.ndarray, confidence: float) -> np.ndarray:
  """Returns the part of the capital at stake on each example, chosen by those before it alone.

  It is the "predictable plug-in" of Waudby-Smith and Ramdas, one-sided: the best stake on as many
  examples, if their variance is that of the examples so far.

  Args:
    scaled: losses from 0 to 1, [examples].
    confidence: as for `is_below`.
  """
  counts = np.arange(2, len(scaled) + 2)
  mean = (0.5 + np.cumsum(scaled)) / counts
  variance = (0.25 + np.cumsum((scaled - mean) ** 2)) / counts
  before = np.concatenate([[0.25], variance[:-1]])
  return np.minimum(1, np.sqrt(2 * _goal(confidence) / (len(scaled) * before)))


def _largest_capital(scaled: np.ndarray, stakes: np.ndarray, limit: float) -> float:
  """Returns the logarithm of the most that the gambler ever has, having begun with 1."""
  with np.errstate(divide='ignore'):
    return float(np.log1p(stakes * (limit - scaled)).cumsum().max(initial=0.0))
