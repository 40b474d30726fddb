"""Operating points that are offered for a network whose examples are not at hand."""

import itertools

import pytest

from dpoq_jax.inference import combination, curve, operating_point
from dpoq_jax.reporting import choices

BITS = (2, 4, 8)


@pytest.mark.parametrize(
  ('order', 'precision'),
  [('normalised', None), ('confidence_first', None), ('precision_first', 4)],
)
@pytest.mark.parametrize('key', [0.0, 0.3, 0.5, 1.0, curve.NEVER])
def test_keys_rise_and_the_current_point_is_among_them(
  order: curve.Order, precision: int | None, key: float
):
  weights = combination.plain_weights('mean', len(BITS))
  point = operating_point.from_key(
    BITS, order, key, 'mean', weights, (1.5, 1.0, 0.8), precision=precision
  )
  points, current = choices.choices_by_key(point, 6)
  assert points[current] is point
  places = [(each.precision or 0, each.key) for each in points]
  assert places == sorted(set(places))
  assert {0.0, curve.NEVER} <= {each.key for each in points}
  # Each sends on at least what the one before it does, from every precision.
  thresholds = [tuple(each.thresholds.values()) for each in points]
  for one, following in itertools.pairwise(thresholds):
    assert all(a <= b for a, b in zip(one, following, strict=True))
  assert all(
    (each.weights, each.temperatures) == (point.weights, point.temperatures) for each in points
  )
