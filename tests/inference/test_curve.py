import doctest
import heapq
import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
import pytest

from dpoq_jax.inference import combination, curve, exits

BIT_LISTS = [(2,), (2, 4), (2, 4, 8), (1, 3, 4, 16), (2, 4, 8, 16)]


def softmax(logits):
  exponentials = np.exp(logits - np.max(logits))
  return exponentials / exponentials.sum()


def key_of(confidence, bits, lowest, order):
  """The table of section 3.3, as it stands."""
  return {
    'precision_first': (bits, confidence),
    'confidence_first': confidence,
    'normalised': confidence ** (lowest / bits),
  }[order]


def literal_rerun(logits, labels, bits, order):
  """Upgrades the input with the smallest key, one at a time; the state after each."""
  count, examples, _ = logits.shape
  probabilities = np.array([[softmax(one.astype(float)) for one in each] for each in logits])
  confidence = probabilities.max(axis=-1)
  at = np.zeros(examples, int)

  def state():
    right = [
      probabilities[: at[i] + 1, i].sum(axis=0).argmax() == labels[i] for i in range(examples)
    ]
    return sum(bits[k] for k in at) / examples, sum(right) / examples

  queue = [
    (key_of(confidence[0, i], bits[0], bits[0], order), i) for i in range(examples) if count > 1
  ]
  heapq.heapify(queue)
  states = [state()]
  while queue:
    _, i = heapq.heappop(queue)
    at[i] += 1
    states.append(state())
    if at[i] < count - 1:
      k = at[i]
      heapq.heappush(queue, (key_of(confidence[k, i], bits[k], bits[0], order), i))
  return np.array(states)


def literal_exits(confidence, thresholds):
  """Index of the precision each input leaves at, by section 3.3 of the paper as it stands."""
  left = []
  for i in range(confidence.shape[1]):
    k = 0
    while k < len(thresholds) - 1 and not confidence[k, i] >= thresholds[k]:
      k += 1
    left.append(k)
  return np.array(left)


@st.composite
def problems(draw):
  bits = draw(st.sampled_from(BIT_LISTS))
  examples, classes = draw(st.integers(1, 8)), draw(st.integers(1, 4))
  # Few distinct values, so that ties and dips are common.
  values = st.one_of(st.sampled_from([-2.0, 0.0, 1.0, 3.0]), st.floats(-9, 9, width=32))
  logits = draw(hnp.arrays(np.float32, (len(bits), examples, classes), elements=values))
  labels = draw(hnp.arrays(np.int32, (examples,), elements=st.integers(0, classes - 1)))
  return logits, labels, bits, draw(st.sampled_from(curve.ORDERS))


@given(problems())
def test_curve_is_the_literal_rerun(problem):
  logits, labels, bits, order = problem
  result = curve.rerun_curve(logits, labels, bits, order)
  expected = literal_rerun(logits, labels, bits, order)
  assert len(result) == logits.shape[1] * (len(bits) - 1) + 1
  np.testing.assert_array_equal(result.average_bits, expected[:, 0])
  np.testing.assert_array_equal(result.cost, expected[:, 0] / bits[0])
  np.testing.assert_array_equal(result.accuracy, expected[:, 1])


@given(problems())
def test_thresholds_lead_exactly_to_their_state(problem):
  logits, labels, bits, order = problem
  result = curve.rerun_curve(logits, labels, bits, order)
  _, correct = exits.evaluate(logits, labels, combination.plain_weights('mean', len(bits)))
  seen = set()
  for point in result.points:
    thresholds = result.thresholds(point)
    left = literal_exits(result.confidence, thresholds)
    assert np.take(bits, left).sum() / len(labels) == result.average_bits[point]
    assert correct[left, np.arange(len(labels))].sum() / len(labels) == result.accuracy[point]
    seen.add(tuple(left))
  # And no thresholds at all of that order lead to a state that is not listed.
  for level in {*np.ravel(result.confidence), *result.key[np.isfinite(result.key)], 0, curve.NEVER}:
    for precision in bits[:-1] if order == 'precision_first' else (None,):
      thresholds = curve.thresholds_of_key(order, level, bits, precision)
      assert tuple(literal_exits(result.confidence, thresholds)) in seen or rounds(
        result, thresholds
      )


def rounds(result, thresholds):
  """Whether a threshold made by a power is within rounding of a confidence."""
  gaps = [np.abs(c - t).min() for c, t in zip(result.confidence, thresholds, strict=True)]
  return min(gaps) < 1e-12


@given(problems())
def test_cost_rises_from_one_to_the_ratio_of_bits(problem):
  logits, labels, bits, order = problem
  result = curve.rerun_curve(logits, labels, bits, order)
  assert result.cost[0] == 1
  assert result.cost[-1] == bits[-1] / bits[0]
  assert (np.diff(result.cost) > 0).all()
  if order != 'precision_first':
    assert (np.diff(result.key) >= 0).all()


def test_the_example_in_the_documentation_runs():
  outcome = doctest.testmod(curve)
  assert outcome.attempted
  assert not outcome.failed


def test_a_worked_example():
  # Two inputs, two classes; confidences 0.9 and 0.6 at 2 bits, 0.7 and 0.8 at 4.
  confidence = np.array([[0.9, 0.6], [0.7, 0.8], [0.5, 0.5]])
  logits = np.log(np.stack([confidence, 1 - confidence], axis=-1))
  expected_moves: dict[curve.Order, Any] = {
    # 2 bits: 0.6 (input 1), 0.9 (input 0); then 4 bits: 0.7 (input 0), 0.8 (input 1).
    'precision_first': ([0.6, 0.9, 0.7, 0.8], [1, 1, 1, 1, 1]),
    # Input 1 (0.6, then 0.8) goes through before input 0, which drops to 0.7 after it moved.
    'confidence_first': ([0.6, 0.8, 0.9, 0.9], [1, 1, 1, 0, 1]),
    # 4-bit keys are square roots: 0.837 and 0.894; the drop is 0.9 to 0.837.
    'normalised': ([0.6, 0.8**0.5, 0.9, 0.9], [1, 1, 1, 0, 1]),
  }
  for order, (keys, reachable) in expected_moves.items():
    result = curve.rerun_curve(logits, np.array([0, 0]), (2, 4, 8), order)
    np.testing.assert_allclose(result.key, [*keys, np.inf])
    np.testing.assert_array_equal(result.reachable, np.array(reachable, bool))
  result = curve.rerun_curve(logits, np.array([0, 0]), (2, 4, 8), 'normalised')
  np.testing.assert_allclose(result.average_bits, [2, 3, 5, 6, 8])
  middle = (0.6 + 0.8**0.5) / 2
  np.testing.assert_allclose(result.thresholds(1), [middle, middle**2, 0])
  assert result.thresholds(0) == (0, 0, 0)
  assert result.thresholds(4) == (curve.NEVER, curve.NEVER, 0)


def test_the_key_of_a_state_lies_between_inputs_of_one_precision():
  confidence = np.array([[0.9, 0.6], [0.7, 0.8], [0.5, 0.5]])
  logits = np.log(np.stack([confidence, 1 - confidence], axis=-1))
  result = curve.rerun_curve(logits, np.array([0, 0]), (2, 4, 8), 'precision_first')
  # Before the first move of a precision the key is 0, whatever the last one's inputs had.
  expected = [0, (0.6 + 0.9) / 2, 0, (0.7 + 0.8) / 2, curve.NEVER]
  np.testing.assert_allclose([result.middle_key(point) for point in range(5)], expected)
  assert [result.in_progress(point) for point in range(5)] == [2, 2, 4, 4, 4]
  # One input at two precisions, and at one.
  two = curve.rerun_curve(logits[:2, :1], np.array([0]), (2, 4), 'normalised')
  assert [two.middle_key(point) for point in range(2)] == [0, curve.NEVER]
  one = curve.rerun_curve(logits[:1], np.array([0, 0]), (2,), 'normalised')
  assert [one.middle_key(point) for point in range(len(one))] == [0]


def test_a_point_inside_a_tie_is_refused_by_name():
  logits = np.zeros((2, 3, 2))
  result = curve.rerun_curve(logits, np.array([0, 0, 1]), (2, 4), 'confidence_first')
  np.testing.assert_array_equal(result.points, [0, 3])
  with pytest.raises(ValueError, match=r'point 1: .* the nearest are 0 and 3'):
    result.thresholds(1)


@pytest.mark.parametrize('count', [1, 2, 3, 5, 40])
def test_states_are_spread_evenly_in_cost_with_both_ends(count: int):
  rng = np.random.default_rng(0)
  logits, labels = rng.normal(0, 2, (3, 30, 4)), rng.integers(0, 4, 30)
  rerun = curve.rerun_curve(logits, labels, (2, 4, 8), 'confidence_first')
  found = curve.evenly_spread_states(rerun, count)
  costs = rerun.cost[rerun.points]
  # The state nearest to each of `count` costs at equal distances, the costlier of two.
  expected = set()
  for k in range(count):
    aim = costs[0] + (costs[-1] - costs[0]) * k / max(count - 1, 1)
    gaps = np.abs(costs - aim)
    expected.add(int(rerun.points[np.flatnonzero(gaps <= gaps.min() + 1e-12)[-1]]))
  assert found == sorted(expected)
  assert found[0] == 0
  if count > 1:
    assert found[-1] == len(rerun) - 1


@pytest.mark.parametrize(
  ('order', 'key', 'precision', 'message'),
  [
    ('normalised', -0.1, None, 'key=-0.1: a key is a confidence, from 0 to 1'),
    ('normalised', 2.5, None, 'key=2.5: a key is a confidence'),
    ('normalised', 0.5, 2, 'precision=2: only keys of the order precision_first have one'),
    ('precision_first', 0.5, None, r'precision=None: .* one of the precisions \(2, 4\)'),
    ('precision_first', 0.5, 8, r'precision=8: .* one of the precisions \(2, 4\)'),
  ],
)
def test_keys_that_are_none_are_refused(order: curve.Order, key, precision, message):
  with pytest.raises(ValueError, match=message):
    curve.thresholds_of_key(order, key, (2, 4, 8), precision)


def test_thresholds_of_a_key_by_hand():
  assert curve.thresholds_of_key('confidence_first', 0.8, (2, 4, 8)) == (0.8, 0.8, 0)
  # Of eq. 9: p ** (2 / b) is at least the key where p is at least its power of b / 2.
  np.testing.assert_allclose(
    curve.thresholds_of_key('normalised', 0.8, (2, 4, 8)), (0.8, 0.8**2, 0), rtol=1e-15
  )
  # Those of finished precisions let nothing leave, those of later ones everything.
  assert curve.thresholds_of_key('precision_first', 0.8, (2, 4, 8), 2) == (0.8, 0, 0)
  assert curve.thresholds_of_key('precision_first', 0.8, (2, 4, 8), 4) == (curve.NEVER, 0.8, 0)
  assert curve.thresholds_of_key('normalised', 0.8, (8,)) == (0,)


@pytest.mark.parametrize('combine', ['mean', 'weighted'])
def test_temperatures_divide_the_logits_of_their_precision(combine: str):
  rng = np.random.default_rng(0)
  logits, labels = rng.normal(0, 2, (3, 300, 4)), rng.integers(0, 4, 300)
  temperatures = (0.5, 2.0, 3.0)
  arguments: Any = (labels, (2, 4, 8), 'normalised', combine)
  found = curve.rerun_curve(logits, *arguments, temperatures=temperatures)
  divided = logits / np.array(temperatures)[:, None, None]
  expected = curve.rerun_curve(divided, *arguments)
  np.testing.assert_allclose(found.confidence, expected.confidence, rtol=1e-12)
  np.testing.assert_array_equal(found.accuracy, expected.accuracy)


def test_nan_is_the_least_confident():
  logits = np.array([[[5.0, 0.0], [np.nan, 0.0], [0.1, 0.0]]] * 2, np.float32)
  result = curve.rerun_curve(logits, np.array([0, 0, 0]), (2, 4), 'confidence_first')
  assert result.key[0] == 0.5  # the uniform distribution of the NaN goes first
  point = 1
  np.testing.assert_array_equal(
    literal_exits(result.confidence, result.thresholds(point)), [0, 1, 0]
  )


@pytest.mark.parametrize('order', curve.ORDERS)
def test_fifty_thousand_inputs_at_four_precisions(order):
  rng = np.random.default_rng(0)
  logits = rng.normal(0, 3, (4, 50_000, 10)).astype(np.float32)
  labels = rng.integers(0, 10, 50_000)
  started = time.monotonic()
  result = curve.rerun_curve(logits, labels, (2, 4, 8, 16), order)
  print(f'{order}: {time.monotonic() - started:.2f} s')
  assert len(result) == 150_001
  assert result.cost[0] == 1
  assert result.cost[-1] == 8


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'order': 'random'}, "order='random': an order is one of"),
    ({'combine': 'median'}, "combine='median': a combination is one of mean, last, weighted"),
    ({'bits': (2, 4, 8)}, r'for bits=\(2, 4, 8\) they are \[3, examples'),
    ({'labels': np.array([0, 1])}, 'give 3 integers, one for each example'),
    ({'labels': np.array([0, 1, 2])}, 'labels run from 0 to 2, but logits have 2 classes'),
    ({'labels': np.array([0.0, 1, 1])}, 'labels are float64'),
    ({'logits': np.zeros((2, 0, 2)), 'labels': np.array([], int)}, 'at least one example'),
  ],
)
def test_bad_input_is_refused(change, message):
  arguments = {
    'logits': np.zeros((2, 3, 2)),
    'labels': np.array([0, 1, 1]),
    'bits': (2, 4),
    'order': 'normalised',
  }
  with pytest.raises(ValueError, match=message):
    curve.rerun_curve(**(arguments | change))
