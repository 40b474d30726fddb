"""The operating points that a report lets people choose from, along the rerun curves."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dpoq_jax.inference import curve, exits, operating_point
from dpoq_jax.inference.calibration import Examples, outcome_of
from dpoq_jax.inference.operating_point import OperatingPoint, Target


class Selectable(NamedTuple):
  """Operating points along one rerun curve, from the cheapest up.

  Attributes:
    rerun: the curve, of the calibration examples.
    points: with their outcomes, expected and reported.
    current: index of the current operating point; None if it is of another order.
  """

  rerun: curve.RerunCurve
  points: list[OperatingPoint]
  current: int | None


class Known(NamedTuple):
  """What the exits do with the examples: the same whatever the thresholds, so computed once.

  Attributes:
    calibration: of the examples that thresholds are chosen on.
    reported: of the others.
  """

  calibration: exits.Exits
  reported: exits.Exits


def know(point: OperatingPoint, calibration: Examples, reported: Examples) -> Known:
  """Runs the exits of an operating point on both sets of examples."""
  weights, temperatures = tuple(point.weights.values()), tuple(point.temperatures.values())
  return Known(
    *(
      exits.evaluate(examples.logits, examples.labels, weights, temperatures)
      for examples in (calibration, reported)
    )
  )


def measured(point: OperatingPoint, known: Known) -> OperatingPoint:
  """The operating point with both its outcomes."""
  expected, reported = (outcome_of(point, each) for each in known)
  return point.model_copy(update={'expected': expected, 'reported': reported})


def along(
  point: OperatingPoint,
  order: str,
  calibration: Examples,
  known: Known,
  count: int,
) -> Selectable:
  """At most `count` points of an order's curve, evenly spread in cost, and the current one.

  Args:
    point: the current operating point: kept as it is, outcomes aside. The others have its
      combination, weights, temperatures and examples.
    order: one of `curve.ORDERS`.
    calibration: examples of the curve.
    known: see `know`.
    count: at least 2, as both ends are among them.
  """
  weights, temperatures = tuple(point.weights.values()), tuple(point.temperatures.values())
  rerun = curve.rerun_curve(
    calibration.logits, calibration.labels, point.bits, order, weights, temperatures
  )
  points = []
  for state in spread(rerun, count):
    chosen = operating_point.from_curve(
      rerun, state, point.combine, weights, temperatures, data=point.data
    )
    target = Target(kind='key', value=chosen.key)
    points.append(measured(chosen.model_copy(update={'target': target}), known))
  if order != point.order:
    return Selectable(rerun, points, None)
  current = measured(point, known)
  costs = [_cost(each) for each in points]
  index = int(np.searchsorted(costs, _cost(current)))
  # In place of the one of the same cost, which is the same state of the curve.
  same = index < len(points) and costs[index] == _cost(current)
  points[index : index + same] = [current]
  return Selectable(rerun, points, index)


def spread(rerun: curve.RerunCurve, count: int) -> Sequence[int]:
  """States that thresholds lead to, at most `count`, evenly spread in cost, with both ends."""
  costs = rerun.cost[rerun.points]
  aims = np.linspace(costs[0], costs[-1], count)
  above = np.searchsorted(costs, aims)
  below = np.maximum(above - 1, 0)
  nearest = np.where(costs[above] - aims <= aims - costs[below], above, below)
  return rerun.points[np.unique(nearest)].tolist()


def _cost(point: OperatingPoint) -> float:
  assert point.expected is not None
  return point.expected.relative_cost
