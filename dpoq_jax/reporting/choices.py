"""Computes the operating points that a report offers to its readers, along the rerun curves."""

from typing import NamedTuple

import numpy as np

from dpoq_jax.inference import curve, exits, operating_point
from dpoq_jax.inference.calibration import outcome_of, select
from dpoq_jax.inference.curve import Order
from dpoq_jax.inference.examples import Examples, alone
from dpoq_jax.inference.operating_point import OperatingPoint, Target


class Choices(NamedTuple):
  """Holds operating points along one rerun curve, from the cheapest up.

  Attributes:
    rerun: the curve, on the calibration examples.
    points: operating points, with both outcomes.
    current: index of the current operating point; None if it is of another order.
  """

  rerun: curve.RerunCurve
  points: list[OperatingPoint]
  current: int | None


class EvaluatedExits(NamedTuple):
  """Holds what the exits do with both sets of examples, which no threshold changes.

  Attributes:
    calibration: exits on the examples that thresholds are chosen on.
    reported: exits on the others.
  """

  calibration: exits.Exits
  reported: exits.Exits


def evaluated_exits(
  point: OperatingPoint, calibration: Examples, reported: Examples
) -> EvaluatedExits:
  """Returns what the exits of an operating point do with both sets of examples."""
  weights, temperatures = tuple(point.weights.values()), tuple(point.temperatures.values())
  return EvaluatedExits(
    *(
      exits.evaluate(examples.logits, examples.labels, weights, temperatures)
      for examples in (calibration, reported)
    )
  )


def with_outcomes(point: OperatingPoint, evaluated: EvaluatedExits) -> OperatingPoint:
  """Returns an operating point with both its outcomes."""
  expected, reported = (outcome_of(point, each) for each in evaluated)
  return point.model_copy(update={'expected': expected, 'reported': reported})


def choices_of_order(
  point: OperatingPoint,
  order: Order,
  calibration: Examples,
  evaluated: EvaluatedExits,
  count: int,
) -> Choices:
  """Returns points along the curve of an order, evenly spread in cost, and the current one.

  Args:
    point: the current operating point, which is kept as it is but for its outcomes. The others get
      its combination, weights, temperatures and provenance.
    order: one of `curve.ORDERS`.
    calibration: examples of the curve.
    evaluated: result of `evaluated_exits`.
    count: number of points, at most, beside the current one; at least 2, as both ends of the curve
      are among them.
  """
  weights, temperatures = tuple(point.weights.values()), tuple(point.temperatures.values())
  rerun = curve.rerun_curve(
    calibration.logits,
    calibration.labels,
    point.bits,
    order,
    weights,
    temperatures,
    point.bitops,
  )
  points: list[OperatingPoint] = []
  for state in curve.evenly_spread_states(rerun, count):
    chosen = operating_point.from_curve(
      rerun, state, point.combine, weights, temperatures, data=point.data
    )
    target = Target(kind='key', value=chosen.key)
    points.append(with_outcomes(chosen.model_copy(update={'target': target}), evaluated))
  if order != point.order:
    return Choices(rerun, points, None)
  current = with_outcomes(point, evaluated)
  costs = [_cost(each) for each in points]
  index = int(np.searchsorted(costs, _cost(current)))
  # One of the same cost is the same state of the curve, so the current point takes its place.
  same = index < len(points) and costs[index] == _cost(current)
  points[index : index + same] = [current]
  return Choices(rerun, points, index)


def choices_by_key(point: OperatingPoint, count: int = 22) -> tuple[list[OperatingPoint], int]:
  """Returns points of an order by their keys, for a network whose examples are not at hand.

  Args:
    point: the current operating point, which is among them as it is. The others get its
      combination, weights and temperatures; what they are worth is not known.
    count: number of keys, at least 2: both ends are among them.

  Returns:
    The points, the cheapest first, and the index of the current one.
  """
  in_progress = point.bits[:-1] if point.order == 'precision_first' else (None,)
  keys = (*np.linspace(0, 1, count - 1).tolist(), curve.NEVER)
  weights, temperatures = tuple(point.weights.values()), tuple(point.temperatures.values())
  points = [
    operating_point.from_key(
      point.bits, point.order, key, point.combine, weights, temperatures, precision=precision,
      bitops=point.bitops, data=point.data,
    )
    for precision in in_progress
    for key in keys
    if (precision, key) != (point.precision, point.key)
  ]  # fmt: skip
  index = sum(_place(each) < _place(point) for each in points)
  points.insert(index, point)
  return points, index


def hoped_for(
  point: OperatingPoint,
  rerun: curve.RerunCurve,
  calibration: Examples,
  evaluated: EvaluatedExits,
) -> OperatingPoint:
  """Returns the point that meets the target of a promised one on the calibration examples.

  Args:
    point: an operating point with a target; its combination, weights and temperatures are kept.
    rerun: the curve of its order, on the calibration examples.
    calibration: examples of the curve.
    evaluated: result of `evaluated_exits`.
  """
  assert point.target is not None
  state, met = select(rerun, point.target, float(alone(calibration)[-1].mean()))
  chosen = operating_point.from_curve(
    rerun, state, point.combine, tuple(point.weights.values()), tuple(point.temperatures.values()),
    data=point.data, target=point.target, met=met,
  )  # fmt: skip
  return with_outcomes(chosen, evaluated)


def _place(point: OperatingPoint) -> tuple[int, float]:
  """Returns what points of one order are sorted by."""
  return point.precision or 0, point.key


def _cost(point: OperatingPoint) -> float:
  assert point.expected is not None
  return point.expected.relative_cost
