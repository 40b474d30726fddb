"""Finds the cheapest operating point of which it can be promised how accurate it is on new data.

Learn then Test (Angelopoulos et al., 2021) by a fixed sequence: points are tested from the
costliest down, and the last before the first that fails is returned. A point that breaks the limit
is returned only if the first such in the sequence passes, so that all tests together err no oftener
than one: no correction is due for their number. Everything about the points, the test of each
included, was fixed on other examples.
"""

from collections.abc import Sequence
import math

import numpy as np

from dpoq_jax.inference import (
  combination,
  curve,
  examples,
  exits,
  operating_point,
  risk_control,
  temperature,
)
from dpoq_jax.inference.combination import Combination
from dpoq_jax.inference.curve import Order
from dpoq_jax.inference.examples import Examples
from dpoq_jax.inference.operating_point import OperatingPoint
from dpoq_jax.inference.records import Promise

_FITTED_SHARE = 0.2
"""Share of the calibration examples that points are fitted on; the rest bounds what they lose."""

_POINTS = 200
"""Number of points in a sequence, at most: a finer one gains less than a percent of the cost."""


def choose(
  calibration: Examples,
  bits: tuple[int, ...],
  names: Sequence[Combination],
  *,
  order: Order,
  scale_temperatures: bool,
  limit: float,
  confidence: float,
  bitops: Sequence[int] | None = None,
  seed: int = 0,
) -> OperatingPoint:
  """Returns the cheapest point that is promised to lose little, or the costliest if none is.

  Args:
    calibration: examples, independent draws of what new data are.
    bits: the bit list.
    names: combinations to compare; one is kept before anything is tested.
    order: order of the rerun curve.
    scale_temperatures: whether to fit a temperature per precision.
    limit: limit of the accuracy drop below the highest precision alone.
    confidence: probability over calibration examples that the drop on new data is within it.
    bitops: BitOPs of an input that leaves at each precision; see `curve.rerun_curve`.
    seed: draws the examples to fit on.

  Returns:
    The point, with its promise; `met` says whether it is kept.

  Raises:
    ValueError: if there are too few examples to divide.
  """
  fitted, held = divided(calibration, seed)
  temperatures = temperature.temperatures_of(fitted.logits, fitted.labels, scale_temperatures)

  def sequence(combine: Combination) -> '_Sequence':
    """Returns points along the curve of a combination, evenly spread in cost."""
    weights = combination.weights_of(combine, fitted.logits, fitted.labels, temperatures)
    rerun = curve.rerun_curve(
      fitted.logits, fitted.labels, bits, order, weights, temperatures, bitops
    )
    states = curve.evenly_spread_states(rerun, _POINTS)
    return _Sequence(
      [
        operating_point.from_curve(rerun, state, combine, weights, temperatures)
        for state in reversed(states)
      ],
      fitted,
    )

  best = min(
    (sequence(combine) for combine in names),
    key=lambda each: each.prospect(len(held), limit, confidence),
  )
  return best.promised(held, limit, confidence)


def divided(calibration: Examples, seed: int) -> tuple[Examples, Examples]:
  """Returns the examples to fit on and those to bound losses on, both in random order.

  Raises:
    ValueError: if there are too few for both.
  """
  count = len(calibration)
  if count < 2:
    raise ValueError(
      f'{count} calibration examples cannot be divided: a promise needs some to fit on, and '
      'others to bound losses on.'
    )
  # Two numbers seed it: the halves of the test set are drawn by one.
  drawn = np.random.default_rng((seed, count)).permutation(count)
  first = math.ceil(_FITTED_SHARE * count)
  return (
    calibration.take(drawn[:first], f'{first} of {calibration.name}'),
    calibration.take(drawn[first:], f'{count - first} of {calibration.name}'),
  )


class _Sequence:
  """Tests operating points that share a combination, in their order.

  Attributes:
    points: operating points, from the costliest down.
  """

  def __init__(self, points: Sequence[OperatingPoint], fitted: Examples):
    """Takes the points, and the examples that they were fitted on."""
    self.points = points
    self._fitted = self._known(fitted)

  def prospect(self, count: int, limit: float, confidence: float) -> tuple[bool, float]:
    """Returns how good a promise to expect: the smaller the better.

    Args:
      count: number of examples that are going to bound the losses.
      limit: limit of the accuracy drop.
      confidence: confidence of the promise.

    Returns:
      Whether none is expected to be kept, and the relative cost of the last that is; if there is
      none, how far the first is above the limit.
    """
    cost = None
    for point in self.points:
      losses = self._fitted.losses(point)
      # Half the width of a betting interval, by the variance here; the 1 lets none of them be 0.
      variance = (np.square(losses).sum() + 1) / (len(losses) + 1)
      excess = losses.mean() + math.sqrt(-2 * math.log(1 - confidence) * variance / count) - limit
      if excess > 0:
        return (True, float(excess)) if cost is None else (False, cost)
      cost = self._fitted.cost(point)
    assert cost is not None
    return False, cost

  def promised(self, held: Examples, limit: float, confidence: float) -> OperatingPoint:
    """Returns the last point before the first that fails, or the first, with its promise."""
    known = self._known(held)
    kept, met = self.points[0], False
    for point in self.points:
      if not risk_control.is_below(known.losses(point), limit, confidence, self._test(point)):
        break
      kept, met = point, True
    losses, test = known.losses(kept), self._test(kept)
    needed = None if met else risk_control.examples_needed(losses, limit, confidence, test)
    promise = Promise(
      confidence=confidence,
      test=test,
      fitted_on=self._fitted.count,
      bounded_on=known.count,
      drop=int(losses.sum()) / len(losses),
      bound=risk_control.upper_bound(losses, confidence, test),
      examples_needed=None if needed is None else math.ceil(needed / (1 - _FITTED_SHARE)),
    )
    return kept.model_copy(update={'met': met, 'promise': promise})

  def _test(self, point: OperatingPoint) -> risk_control.Test:
    return risk_control.suited_test(self._fitted.losses(point))

  def _known(self, known: Examples) -> '_Known':
    """Returns what the exits of the points do with examples."""
    point = self.points[0]
    weights, temperatures = tuple(point.weights.values()), tuple(point.temperatures.values())
    found = exits.evaluate(known.logits, known.labels, weights, temperatures)
    return _Known(found, examples.alone(known)[-1])


class _Known:
  """Holds what the exits do with examples, and what the highest precision alone does."""

  def __init__(self, found: exits.Exits, highest: np.ndarray):
    """Takes the exits, and whether the highest precision alone is right: bool [examples]."""
    self._exits = found
    self._highest = highest

  @property
  def count(self) -> int:
    """Returns the number of examples."""
    return len(self._highest)

  def losses(self, point: OperatingPoint) -> np.ndarray:
    """Returns what an operating point loses on each example: 1, 0, or -1 for a gain; int64."""
    left_at = point.left_at(self._exits.confidence)
    correct = np.take_along_axis(self._exits.correct, left_at[None], axis=0)[0]
    return self._highest.astype(np.int64) - correct

  def cost(self, point: OperatingPoint) -> float:
    """Returns the relative cost of an operating point on the examples."""
    left_at = point.left_at(self._exits.confidence)
    return float(np.array(point.bitops)[left_at].mean() / point.bitops[0])
