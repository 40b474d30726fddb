"""What `calibrate --confidence` promises, and how often it is kept."""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
import pytest
import scipy.stats

from benchmarks import promise as simulation
from dpoq_jax.inference import calibration, combination, curve, operating_point, risk_control
from dpoq_jax.inference import promise as promise_lib
from dpoq_jax.inference.calibration import Examples
from dpoq_jax.inference.operating_point import Target
from tests.inference import problems

CALIBRATION, REPORTED = problems.examples(3000, seed=1), problems.examples(500, seed=2)


def choose(
  examples: Examples = CALIBRATION,
  drop: float = 0.05,
  confidence: float | None = 0.9,
  **settings: Any,
) -> Any:
  (point,) = calibration.choose(
    examples,
    REPORTED,
    problems.BITS,
    calibration.Settings(
      Target(kind='max_accuracy_drop', value=drop), confidence=confidence, **settings
    ),
    dataset='made up',
    step=7,
    split_seed=3,
  )[:1]
  return point


def same_at_all_precisions(count: int) -> Examples:
  examples = problems.examples(count)
  return dataclasses.replace(examples, logits=np.repeat(examples.logits[-1:], 3, axis=0))


@pytest.mark.parametrize('order', curve.ORDERS)
@pytest.mark.parametrize('combine', combination.COMBINATIONS)
def test_the_point_is_the_last_before_the_first_that_fails(order, combine):
  """Found again point by point, from thresholds and predictions alone."""
  # The plain mean of so unlike precisions loses more.
  drop = 0.15 if combine == 'mean' else 0.05
  point = choose(drop=drop, order=order, combine=combine)
  fitted, held = promise_lib.divided(CALIBRATION, seed=3)
  rerun = curve.rerun_curve(fitted.logits, fitted.labels, problems.BITS, order, combine)
  states = list(reversed(curve.evenly_spread_states(rerun, 200)))
  weights = combination.weights_of(combine, fitted.logits, fitted.labels, (1.0,) * 3)
  assert list(point.weights.values()) == [tuple(each) for each in weights]
  passed = []
  for state in states:
    candidate = operating_point.from_curve(rerun, state, combine, weights, (1.0,) * 3)
    lost = [
      (part.logits[-1].argmax(-1) == part.labels).astype(int)
      - (candidate.predict(part.logits).labels == part.labels)
      for part in (fitted, held)
    ]
    test: Any = 'betting' if (lost[0] < 0).any() else 'binomial'
    if not risk_control.is_below(lost[1], drop, 0.9, test):
      break
    passed.append((candidate, lost[1], test))
  assert 1 <= len(passed) < len(states)
  candidate, lost, test = passed[-1]
  assert point.met
  assert point.thresholds == candidate.thresholds
  assert point.promise.drop == lost.mean()
  assert point.promise.bound == risk_control.upper_bound(lost, 0.9, test) <= drop
  assert (point.promise.fitted_on, point.promise.bounded_on) == (600, 2400)
  assert point.promise.examples_needed is None


def test_what_bounds_has_no_part_in_what_is_fitted():
  """Other logits of the examples that bound: the points of the sequence are the same."""
  bounding = np.random.default_rng((3, 3000)).permutation(3000)[600:]
  logits = CALIBRATION.logits.copy()
  logits[:, bounding] = logits[:, bounding[::-1]]
  other = dataclasses.replace(CALIBRATION, logits=logits)
  options: list[dict[str, Any]] = [{'combine': 'weighted'}, {'scale_temperatures': True}]
  for settings in options:
    first, second = choose(**settings), choose(other, **settings)
    assert first.promise != second.promise
    assert (first.combine, first.weights) == (second.combine, second.weights)
    assert first.temperatures == second.temperatures


def test_a_promise_costs_something():
  hoped, promised = choose(confidence=None), choose()
  assert hoped.promise is None
  assert hoped.expected.relative_cost < promised.expected.relative_cost
  surer, narrower = choose(confidence=0.999), choose(drop=0.03)
  assert surer.expected.relative_cost > promised.expected.relative_cost
  assert narrower.expected.relative_cost > promised.expected.relative_cost


def test_a_promise_that_needs_more_examples_says_how_many():
  """Nothing is lost at all; so few examples do not show it."""
  point = choose(same_at_all_precisions(400), drop=0.005, combine='last')
  assert not point.met
  assert point.promise.test == 'binomial'
  assert (point.promise.drop, point.promise.bounded_on) == (0, 320)
  assert point.promise.bound == pytest.approx(1 - 0.1 ** (1 / 320))
  needed = point.promise.examples_needed
  assert needed == 575
  assert choose(same_at_all_precisions(needed), drop=0.005, combine='last').met
  assert not choose(same_at_all_precisions(needed - 2), drop=0.005, combine='last').met
  # The nearest is the costliest, which is the safest.
  assert point.expected.exits[8] == 1


def test_a_drop_above_the_target_is_promised_with_no_number_of_examples():
  # The lowest precision is always wrong and sure of it, so that the mean with it loses much.
  logits = CALIBRATION.logits.copy()
  logits[0] = np.eye(5)[(CALIBRATION.labels + 1) % 5] * 99
  point = choose(dataclasses.replace(CALIBRATION, logits=logits), drop=0.01, combine='mean')
  assert not point.met
  assert point.promise.drop > 0.01
  assert point.promise.examples_needed is None
  # Other combinations can leave it out, and are preferred for that.
  assert choose(dataclasses.replace(CALIBRATION, logits=logits), drop=0.05).combine != 'mean'


def test_files_keep_the_promise():
  point = choose()
  content = json.loads(point.to_json())
  assert content['promise'] == {
    'confidence': 0.9, 'test': 'betting', 'fitted_on': 600, 'bounded_on': 2400,
    'drop': point.promise.drop, 'bound': point.promise.bound, 'examples_needed': None,
  }  # fmt: skip
  assert content['data']['split_seed'] == 3
  assert operating_point.from_json(point.to_json()) == point
  assert 'promise' not in json.loads(choose(confidence=None).to_json())
  # Not of the same inputs any more.
  assert point.capped(4).promise is None


def test_older_files_are_read():
  path = pathlib.Path(__file__).parents[2] / 'results/cifar10_resnet8_cpu'
  point = operating_point.read(path)
  assert point.promise is None
  assert point.data is not None
  assert point.data.split_seed is None


@pytest.mark.parametrize('kind', ['average_bits', 'relative_cost', 'key'])
def test_only_a_drop_can_be_promised(kind):
  with pytest.raises(ValueError, match=f'confidence=0.9 with a target of {kind}: only a max_acc'):
    calibration.Settings(Target(kind=kind, value=1), confidence=0.9)


@pytest.mark.parametrize('confidence', [0, 1, -0.1, 90, float('nan')])
def test_a_confidence_is_a_probability(confidence):
  with pytest.raises(ValueError, match='give a number between 0 and 1, such as'):
    calibration.Settings(confidence=confidence)


def test_one_example_cannot_be_divided():
  with pytest.raises(ValueError, match='1 calibration examples cannot be divided'):
    choose(problems.examples(1))
  assert not choose(problems.examples(2)).met


def at_most(draws: int, probability: float = 0.1) -> float:
  """Returns a share that so many draws exceed once in 10,000, if each does with a probability."""
  return float(scipy.stats.binom.ppf(0.9999, draws, probability)) / draws


@pytest.mark.parametrize(
  ('kind', 'draws'),
  [
    ('synthetic', 10),
    ('halves', 10),
    *(
      pytest.param(kind, 200, marks=pytest.mark.nightly)
      for kind in ('synthetic', 'halves', 'resampled')
    ),
  ],
)
def test_promises_are_kept(kind, draws):
  """A short form of `python -m benchmarks.promise`."""
  if kind == 'synthetic':
    drawn = simulation.synthetic(draws)
  else:
    whole = simulation.read(simulation.LOGITS)
    drawn = (simulation.halved if kind == 'halves' else simulation.resampled)(whole, draws)
  found = simulation.measure(drawn, drop=0.01, confidence=0.9, combine='last')
  assert found['promised']['broken'] <= at_most(draws)
  assert found['promised']['broken'] < found['hoped']['broken'] > 0.25
  assert found['promised']['saving_of_hoped'] >= 0.6
