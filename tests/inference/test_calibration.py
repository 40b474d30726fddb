import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from dpoq_jax.inference import calibration, combination, curve, operating_point, temperature
from dpoq_jax.inference.operating_point import Target
from tests.inference import problems

CALIBRATION, REPORTED = problems.examples(300, seed=1), problems.examples(500, seed=2)


def choose(kind, value, **settings) -> Any:
  return calibration.choose(
    CALIBRATION,
    REPORTED,
    problems.BITS,
    calibration.Settings(Target(kind=kind, value=value), **settings),
    dataset='made up',
    step=7,
  )


def all_curves(order: curve.Order = 'normalised'):
  for combine in combination.COMBINATIONS:
    rerun = curve.rerun_curve(CALIBRATION.logits, CALIBRATION.labels, problems.BITS, order, combine)
    yield combine, rerun


@pytest.mark.parametrize('order', curve.ORDERS)
@pytest.mark.parametrize(('kind', 'value'), [('average_bits', 3.5), ('relative_cost', 1.4)])
def test_a_limit_on_cost_gets_the_most_accurate_point_within_it(order, kind, value):
  best = choose(kind, value, order=order)[0]
  limit = value if kind == 'average_bits' else value * problems.BITS[0]
  assert best.met
  assert best.expected.average_bits <= limit
  for _, rerun in all_curves(order):
    within = rerun.reachable & (rerun.average_bits <= limit)
    assert best.expected.accuracy >= rerun.accuracy[within].max()


def test_a_limit_on_accuracy_gets_the_cheapest_point_within_it():
  best = choose('max_accuracy_drop', 0.01)[0]
  highest = (CALIBRATION.logits[-1].argmax(-1) == CALIBRATION.labels).mean()
  assert best.met
  assert best.expected.accuracy >= highest - 0.01
  for _, rerun in all_curves():
    good = rerun.reachable & (rerun.accuracy >= highest - 0.01)
    if good.any():
      assert best.expected.average_bits <= rerun.average_bits[good].min()


@pytest.mark.parametrize(('kind', 'value'), [('average_bits', 1.5), ('relative_cost', 0.5)])
def test_a_cost_that_cannot_be_had_is_not_met(kind, value):
  for point in choose(kind, value):
    assert not point.met
    assert point.expected.average_bits == problems.BITS[0]


def test_an_accuracy_that_cannot_be_had_is_not_met():
  # The lowest precision is always right, so that no mean with the others reaches the highest.
  logits = CALIBRATION.logits.copy()
  logits[-1] = np.eye(5)[CALIBRATION.labels] * 9
  logits[:2] = np.eye(5)[(CALIBRATION.labels + 1) % 5] * 99
  worse = dataclasses.replace(CALIBRATION, logits=logits)
  settings = calibration.Settings(Target(kind='max_accuracy_drop', value=0), combine='mean')
  (point,) = calibration.choose(worse, REPORTED, problems.BITS, settings, dataset='made up', step=7)
  assert not point.met


def test_outcomes_are_measured_on_their_own_examples():
  best = choose('average_bits', 3)[0]
  for outcome, examples in ((best.expected, CALIBRATION), (best.reported, REPORTED)):
    left = best.predict(examples.logits)
    assert outcome.examples == len(examples)
    assert outcome.accuracy == (left.labels == examples.labels).mean()
    shares = [(left.exits == k).mean() for k in range(3)]
    assert list(outcome.exits.values()) == shares
    assert outcome.average_bits == pytest.approx(np.dot(shares, problems.BITS))
  assert best.data.calibration == '300 made up'
  assert best.data.reported == '500 made up'


def test_three_combinations_are_compared_unless_one_is_asked_for():
  compared = choose('average_bits', 3)
  assert {point.combine for point in compared} == set(combination.COMBINATIONS)
  accuracies = [point.expected.accuracy for point in compared]
  assert accuracies == sorted(accuracies, reverse=True)
  assert [point.combine for point in choose('average_bits', 3, combine='mean')] == ['mean']


def test_a_key_by_hand_is_taken_as_it_is():
  best = choose('key', 0.8)[0]
  assert list(best.thresholds.values()) == [0.8, 0.8**2, 0.0]
  first = choose('key', 0.8, order='precision_first', precision=4)[0]
  assert list(first.thresholds.values()) == [curve.NEVER, 0.8, 0.0]
  with pytest.raises(ValueError, match='precision=4: only keys of the order precision_first'):
    choose('key', 0.8, precision=4)
  with pytest.raises(ValueError, match=r'precision=8: .* one of the precisions'):
    choose('key', 0.8, order='precision_first', precision=8)


def test_the_key_of_a_chosen_point_given_by_hand_is_that_point():
  best = choose('average_bits', 3)[0]
  by_hand = choose('key', best.key, combine=best.combine)[0]
  assert by_hand.thresholds == pytest.approx(best.thresholds, rel=1e-12)
  assert by_hand.reported == best.reported


def test_temperatures_are_fitted_on_request():
  assert set(choose('average_bits', 3)[0].temperatures.values()) == {1.0}
  scaled = choose('average_bits', 3, scale_temperatures=True)[0]
  expected = [temperature.fit_temperature(each, CALIBRATION.labels) for each in CALIBRATION.logits]
  assert list(scaled.temperatures.values()) == expected


def test_halves_are_halves():
  whole = problems.examples(11)
  first, second = calibration.split(whole)
  assert sorted([*first, *second]) == list(range(11))
  assert (len(first), len(second)) == (5, 6)
  np.testing.assert_array_equal(first, calibration.split(whole)[0])
  assert not np.array_equal(first, calibration.split(whole, seed=1)[0])
  with pytest.raises(ValueError, match='1 examples cannot be halved'):
    calibration.split(problems.examples(1))


def test_halves_are_alike_in_labels_and_confidence():
  whole = problems.examples(2000, seed=5)
  confidence = np.array([temperature.probabilities(each).max(-1) for each in whole.logits])
  for seed in range(20):
    halves = calibration.split(whole, seed)
    labels = [np.bincount(whole.labels[half], minlength=5) for half in halves]
    assert np.abs(labels[0] - labels[1]).max() <= 2
    means = [confidence[:, half].mean() for half in halves]
    # Two halves drawn blindly are 0.01 apart in one of 3.
    assert abs(means[0] - means[1]) < 0.002


def test_halves_differ_less_in_accuracy_than_random_ones_do():
  whole = problems.examples(2000, seed=6)
  right = calibration.alone(whole)

  def apart(halves: Any) -> np.ndarray:
    return right[:, halves[0]].mean(axis=1) - right[:, halves[1]].mean(axis=1)

  alike = np.std([apart(calibration.split(whole, seed)) for seed in range(200)], axis=0)
  orders = [np.random.default_rng(seed).permutation(2000) for seed in range(200)]
  blind = np.std([apart((order[:1000], order[1000:])) for order in orders], axis=0)
  assert (alike < blind).all()


def test_which_half_an_example_is_in_has_nothing_to_do_with_being_right():
  """The lowest precision is wrong where it was right, as sure as before: the halves stay."""
  whole = problems.examples(300, seed=7)
  turned = dataclasses.replace(whole, logits=np.roll(whole.logits, 1, axis=-1))
  for first, second in zip(calibration.split(whole), calibration.split(turned), strict=True):
    np.testing.assert_array_equal(first, second)


def test_equal_bits():
  best = choose('average_bits', 3, combine='mean')[0]
  equal = list(calibration.equal_bits(best, CALIBRATION, REPORTED, (2, 3, 8)))
  right = REPORTED.logits.argmax(-1) == REPORTED.labels
  assert equal[0].static == equal[0].ensemble == equal[0].dynamic == right[0].mean()
  assert (equal[1].static, equal[1].ensemble) == (None, None)
  assert equal[1].dynamic == choose('average_bits', 3, combine='mean')[0].reported.accuracy
  assert equal[2].static == right[2].mean()


def test_one_precision_has_one_point():
  one = calibration.Examples(CALIBRATION.logits[:1], CALIBRATION.labels, 'one')
  settings = calibration.Settings(Target(kind='max_accuracy_drop', value=0.0))
  points = calibration.choose(one, one, (8,), settings, dataset='made up', step=0)
  assert all(point.met and point.thresholds == {8: 0.0} for point in points)


def test_files_survive_a_round_trip(tmp_path):
  best = choose('average_bits', 3, scale_temperatures=True)[0]
  path = tmp_path / operating_point.FILE
  path.write_text(best.to_json())
  assert operating_point.read(path) == operating_point.read(tmp_path) == best
  content = json.loads(path.read_text())
  assert content['target'] == {'kind': 'average_bits', 'value': 3.0}
  assert content['met'] is True
  assert list(content['thresholds']) == ['2', '4', '8']
  assert set(content['expected']) == {
    'examples', 'accuracy', 'average_bits', 'relative_cost', 'exits'
  }  # fmt: skip


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'bits': [4, 2, 8]}, 'increasing integers'),
    ({'thresholds': {'2': 0.5}}, 'thresholds needs one entry for each of bits'),
    ({'thresholds': {'2': -1, '4': 0.5, '8': 0}}, 'thresholds.2: .*greater than or equal to 0'),
    ({'thresholds': {'2': float('nan'), '4': 0.5, '8': 0}}, 'thresholds.2: '),
    ({'weights': {'2': [1], '4': [1], '8': [1, 1, 1]}}, 'weights of 4 bits: 2 are needed'),
    ({'weights': {'2': [0], '4': [1, 1], '8': [1, 1, 1]}}, 'not all 0'),
    ({'temperatures': {'2': 0, '4': 1, '8': 1}}, 'temperatures.2: .*greater than 0'),
    ({'format': 2}, 'format: '),
    ({'order': 'random'}, 'order: '),
    ({'colour': 'red'}, 'colour: '),
    ({'promise': {'confidence': 2}}, 'promise.confidence: '),
    (
      {
        'promise': {
          'confidence': 0.9,
          'test': 'betting',
          'fitted_on': 1,
          'bounded_on': 9,
          'drop': 0,
          'bound': 0.1,
        }
      },
      'promise needs a target of max_accuracy_drop',
    ),
  ],
)
def test_files_that_are_no_operating_point_are_refused(tmp_path, change, message):
  content = json.loads(choose('average_bits', 3)[0].to_json())
  path = tmp_path / 'point.json'
  path.write_text(json.dumps(content | change))
  with pytest.raises(ValueError, match=f'point.json: not an operating point: .*{message}'):
    operating_point.read(path)


def test_keys_sorted_as_text_are_put_in_order():
  point = choose('average_bits', 3)[0]
  content = json.loads(point.to_json())
  content['thresholds'] = dict(reversed(content['thresholds'].items()))
  assert operating_point.from_json(json.dumps(content)) == point
  assert tuple(operating_point.from_json(json.dumps(content)).thresholds) == problems.BITS


def test_logits_that_say_nothing_are_class_0_in_the_reference_too():
  logits = CALIBRATION.logits.copy()
  logits[-1] = np.nan
  silent = dataclasses.replace(CALIBRATION, logits=logits)
  settings = calibration.Settings(Target(kind='max_accuracy_drop', value=0), combine='last')
  (point,) = calibration.choose(
    silent, REPORTED, problems.BITS, settings, dataset='made up', step=7
  )
  assert point.met
  assert calibration.alone(silent)[-1].mean() == (CALIBRATION.labels == 0).mean()


def test_missing_and_broken_files_are_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'choose one with dpoq calibrate'):
    operating_point.read(tmp_path)
  (tmp_path / operating_point.FILE).write_text('{')
  with pytest.raises(ValueError, match='not an operating point'):
    operating_point.read(tmp_path)


def test_costs_follow_bitops():
  settings = calibration.Settings(Target(kind='relative_cost', value=3))

  def chosen(bitops: Any) -> list[operating_point.OperatingPoint]:
    return calibration.choose(
      CALIBRATION, REPORTED, problems.BITS, settings,
      dataset='made up', step=7, bitops=bitops,
    )  # fmt: skip

  for point in chosen((4, 12, 44)):
    assert point.expected is not None
    cost = np.dot(list(point.expected.exits.values()), (1, 12 / 4, 44 / 4))
    assert point.expected.relative_cost == pytest.approx(cost)
    assert cost <= 3 + 1e-9
    assert operating_point.from_json(point.to_json()) == point
  # A common factor changes nothing; the paper's cost is the bits.
  for point, other in zip(chosen((20, 40, 80)), chosen(None), strict=True):
    assert point.bitops == (20, 40, 80)
    assert other.bitops == (2, 4, 8)
    assert (point.thresholds, point.reported) == (other.thresholds, other.reported)
  for wrong in ((2,), (2, 4, 4), (4, 2, 8)):
    with pytest.raises(ValueError, match='one positive number for each of bits'):
      operating_point.static((2, 4, 8), 2, wrong)
    with pytest.raises(ValueError, match='one positive number for each of bits'):
      chosen(wrong)


def test_earlier_points_have_the_activation_bits_that_costs_follow_from():
  text = operating_point.static((2, 4, 8), 4).to_json()
  fields = json.loads(text)
  del fields['bitops']
  assert operating_point.from_json(json.dumps(fields)).bitops == (2, 4, 8)
  earlier = operating_point.from_json(json.dumps({**fields, 'activation_bits': [2, 4, 8]}))
  # 2 x 2, and 2 x 4 of the second ring, and 4 x 8 of the third.
  assert earlier.bitops == (4, 12, 44)
  assert 'activation_bits' not in earlier.to_json()
  assert operating_point.from_json(earlier.to_json()) == earlier
  with pytest.raises(ValueError, match='needs one entry for each of'):
    operating_point.from_json(json.dumps({**fields, 'activation_bits': [2]}))


def test_static_and_capped_points():
  static = operating_point.static((2, 4, 8), 4)
  left = static.predict(REPORTED.logits)
  assert (left.exits == 1).all()
  np.testing.assert_array_equal(left.labels, REPORTED.logits[1].argmax(-1))
  capped = choose('average_bits', 6)[0].capped(4)
  assert capped.predict(REPORTED.logits).exits.max() == 1
  # What the point that was chosen is worth, and for what it was chosen, is not so of this one.
  assert (capped.target, capped.expected, capped.reported) == (None, None, None)
  with pytest.raises(ValueError, match='precision 5'):
    static.capped(5)


def test_a_point_asks_for_the_checkpoint_it_was_chosen_for_unless_another_is_given():
  point = choose('average_bits', 3)[0]
  assert point.checkpoint_for('made up', None) == 7
  assert point.checkpoint_for('made up', 3) == 3
  assert point.checkpoint_for('made up', 'best') == 'best'
  with pytest.raises(ValueError, match='chosen on made up, the network is for digits'):
    point.checkpoint_for('digits', None)
  # One that was not chosen on data goes with any network.
  by_hand = operating_point.static((2, 4, 8), 4)
  assert by_hand.checkpoint_for('digits', None) is None
  assert by_hand.checkpoint_for('digits', 3) == 3
  # Where a data set was is no part of its name: an export leaves it out.
  assert point.data
  moved = point.data.model_copy(update={'dataset': '/data/own/pets/1.0.0'})
  moved = point.model_copy(update={'data': moved})
  for where in ('/mnt/pets/1.0.0', 'pets/1.0.0'):
    assert moved.checkpoint_for(where, None) == 7


@pytest.mark.parametrize('order', curve.ORDERS)
def test_a_point_says_which_state_of_which_curve_it_is(order: curve.Order):
  combine, rerun = next(all_curves(order))
  state = int(rerun.points[len(rerun.points) // 2])
  weights = combination.plain_weights('mean', 3)
  point = operating_point.from_curve(rerun, state, combine, weights, (1.0, 1.0, 1.0), met=False)
  assert (point.order, point.key) == (order, rerun.middle_key(state))
  assert point.precision == rerun.in_progress(state)
  assert (point.precision is not None) == (order == 'precision_first')
  assert not point.met
  by_hand = operating_point.from_key(
    problems.BITS, order, point.key, combine, weights, (1.0, 1.0, 1.0), precision=point.precision
  )
  assert (by_hand.order, by_hand.precision, by_hand.met) == (order, point.precision, True)
