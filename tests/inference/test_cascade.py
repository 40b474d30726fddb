import dataclasses
import itertools
from typing import Any, NamedTuple

import chex
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpoq_jax import CifarResNet, Onion
from dpoq_jax.core.names import LOGIT_SCALE
from dpoq_jax.inference import (
  cascade,
  combination,
  curve,
  operating_point,
  path_programs,
  temperature,
)
from tests.tiny_model import TinyNet

MOST = 40  # Inputs in the table below.
PATH_BATCH_SIZE = 4


class Output(NamedTuple):
  logits: Any
  laterals: Any


@dataclasses.dataclass(frozen=True)
class Table:
  """A network that looks its logits up, and breaks them where laterals are not the input's own."""

  bits: tuple[int, ...]

  def variables_of_path(self, variables, index):
    return {'logits': variables['logits'][index]}

  def run_path(self, variables, index, images, laterals):
    ids = images[:, 0, 0, 0].astype(int)
    logits = variables['logits'][ids]
    for k in range(index):
      kept = laterals[f'lateral_{self.bits[k]}']['z']
      logits = jnp.where((kept == ids[:, None] * 10 + k).all(axis=1)[:, None], logits, 1e9)
    return Output(
      logits, {f'lateral_{self.bits[index]}': {'z': jnp.tile(ids[:, None] * 10 + index, (1, 3))}}
    )


def images_of(ids):
  return np.asarray(ids, np.uint8).reshape(-1, 1, 1, 1)


def make(logits, point, path_batch_size=PATH_BATCH_SIZE):
  padded = np.zeros((len(logits), MOST, logits.shape[2]), np.float32)
  padded[:, : logits.shape[1]] = logits
  variables = {'onion': {}, 'logits': padded}
  return cascade.Cascade(Table(point.bits), variables, point, path_batch_size=path_batch_size)


def point_of(bits, thresholds, combine: Any = 'mean', temperatures=None):
  count = len(bits)
  weights = {
    'mean': [[1.0] * (k + 1) for k in range(count)],
    'last': [[0.0] * k + [1.0] for k in range(count)],
    'weighted': [[float(j + 1 + k) for j in range(k + 1)] for k in range(count)],
  }[combine]
  return operating_point.OperatingPoint(
    bits=bits,
    key=0.5,
    thresholds=dict(zip(bits, thresholds, strict=True)),
    combine=combine,
    weights=dict(zip(bits, map(tuple, weights), strict=True)),
    temperatures=dict(zip(bits, temperatures or [1.0] * count, strict=True)),
  )


def brute_force(logits, point, cap=None):
  """Runs every path on every input, then applies section 3.3 of the paper input by input."""
  labels, probabilities, precisions = [], [], []
  for i in range(logits.shape[1]):
    run = []
    for k, bits in enumerate(point.bits):
      scaled = logits[k, i].astype(np.float64) / point.temperatures[bits]
      exponentials = np.exp(scaled - scaled.max())
      run.append(exponentials / exponentials.sum())
      if run[k].max() >= point.thresholds[bits] or bits in (point.bits[-1], cap):
        break
    weights = point.weights[bits]
    total = np.sum([w * p for w, p in zip(weights, run, strict=True)], axis=0) / sum(weights)
    labels.append(total.argmax())
    probabilities.append(total)
    precisions.append(bits)
  return np.array(labels), np.array(probabilities), np.array(precisions)


@st.composite
def problems(draw):
  bits = draw(st.sampled_from([(2, 4, 8), (2, 4), (3,)]))
  examples = draw(st.integers(1, MOST))
  classes = draw(st.sampled_from([1, 3]))
  values = st.one_of(st.sampled_from([-2.0, 0.0, 1.0, 3.0]), st.floats(-9, 9, width=32))
  logits = draw(hnp.arrays(np.float32, (len(bits), examples, classes), elements=values))
  labels = draw(hnp.arrays(np.int32, (examples,), elements=st.integers(0, classes - 1)))
  return logits, labels, bits


@settings(max_examples=150, deadline=None)
@given(
  problems(),
  st.lists(st.one_of(st.floats(0, 1), st.just(curve.NEVER)), min_size=3, max_size=3),
  st.sampled_from(combination.COMBINATIONS),
  st.sampled_from([None, (0.5, 2.0, 1.5)]),
  st.data(),
)
def test_equals_brute_force(problem, thresholds, combine, temperatures, data):
  logits, _, bits = problem
  # Thresholds that are met exactly, too.
  if data.draw(st.booleans()):
    thresholds[0] = float(temperature.probabilities(logits[0, 0], (temperatures or [1])[0]).max())
  temperatures = temperatures and temperatures[: len(bits)]
  point = point_of(bits, thresholds[: len(bits)], combine, temperatures)
  cap = data.draw(st.sampled_from([None, *bits]))
  labels, probabilities, precisions = brute_force(logits, point, cap)
  result = make(logits, point)(images_of(range(logits.shape[1])), max_precision=cap)
  np.testing.assert_array_equal(result.labels, labels)
  np.testing.assert_array_equal(result.precisions, precisions)
  np.testing.assert_array_equal(result.probabilities, probabilities)
  np.testing.assert_array_equal(result.cost, precisions / bits[0])

  # A stream of uneven batches, and inputs one by one, say the same.
  cuts = sorted(data.draw(st.lists(st.integers(1, logits.shape[1]), max_size=4)))
  edges = sorted({0, *cuts, logits.shape[1]})
  batches = [np.arange(a, b) for a, b in itertools.pairwise(edges)]
  for run in (
    list(make(logits, point).stream(map(images_of, batches), max_precision=cap)),
    [make(logits, point)(images_of([i]), max_precision=cap) for i in range(logits.shape[1])],
  ):
    for name, expected in (('probabilities', probabilities), ('precisions', precisions)):
      found = np.concatenate([getattr(each, name) for each in run])
      np.testing.assert_array_equal(found, expected)
  # What is known of all logits gives the same as running.
  left = (point.capped(cap) if cap else point).predict(logits)
  np.testing.assert_array_equal(left.probabilities, probabilities)
  np.testing.assert_array_equal(np.take(bits, left.exits), precisions)


@settings(max_examples=60, deadline=None)
@given(
  problems(), st.sampled_from(curve.ORDERS), st.sampled_from(combination.COMBINATIONS), st.data()
)
def test_measures_what_the_curve_says(problem, order, combine, data):
  logits, labels, bits = problem
  weights = (
    combination.fit_weights(logits, labels)
    if combine == 'weighted'
    else combination.plain_weights(combine, len(bits))
  )
  bitops = data.draw(st.sampled_from([None, [b * b + 1 for b in bits]]))
  rerun = curve.rerun_curve(logits, labels, bits, order, weights, bitops=bitops)
  chosen = data.draw(st.sampled_from(list(rerun.points)))
  point = operating_point.from_curve(rerun, chosen, combine, weights, [1.0] * len(bits))
  result = make(logits, point)(images_of(range(len(labels))))
  outcome = point.outcome(np.searchsorted(bits, result.precisions), result.labels == labels)
  assert outcome.accuracy == rerun.accuracy[chosen]
  assert outcome.average_bits == rerun.average_bits[chosen]
  assert outcome.relative_cost == rerun.cost[chosen]
  np.testing.assert_allclose(result.cost.mean(), rerun.cost[chosen], rtol=1e-12)


def test_only_undecided_inputs_run_and_programs_are_few():
  rng = np.random.default_rng(0)
  logits = rng.normal(0, 2, (3, MOST, 3)).astype(np.float32)
  point = point_of((2, 4, 8), (0.8, 0.8, 0.0))
  _, _, precisions = brute_force(logits, point)
  running = make(logits, point)
  chex.clear_trace_counter()
  kept: Any = (path_programs.run_path, path_programs.copy_inputs)
  before = [program.jitted._cache_size() for program in kept]
  running(images_of(range(MOST)))
  reached = [MOST, int((precisions > 2).sum()), int((precisions > 4).sum())]
  assert running.counts.inputs == reached
  # Padding: less than a program's worth per path.
  assert all(
    0 <= r - i < PATH_BATCH_SIZE for r, i in zip(running.counts.padded, reached, strict=True)
  )
  for size in range(1, MOST):
    running(images_of(range(size)))
    running(images_of(range(size)), max_precision=4)
    running(images_of(range(size)), operating_point=point_of((2, 4, 8), (0.5, 0.9, 0.0)))
  sizes = [1, 2, 3, 4]
  compiled = [program.jitted._cache_size() - b for program, b in zip(kept, before, strict=True)]
  assert compiled[0] <= 3 * len(sizes)
  # From a size to a capacity, for the two upper paths.
  assert compiled[1] <= 2 * len(sizes) ** 2


def test_a_stream_fills_the_last_paths():
  logits = np.zeros((2, MOST, 3), np.float32)
  logits[0, ::5, 0], logits[0, 1::5, 0] = 9, 9  # two of five leave at once
  point = point_of((2, 4), (0.9, 0.0))
  running = make(logits, point, path_batch_size=8)
  batches = [images_of(range(i, i + 5)) for i in range(0, MOST, 5)]
  assert len(list(running.stream(batches))) == len(batches)
  assert running.counts.inputs == [40, 24] == running.counts.padded
  one_by_one = make(logits, point, path_batch_size=8)
  for batch in batches:
    one_by_one(batch)
  assert one_by_one.counts.inputs == [40, 24]
  assert sum(one_by_one.counts.padded) > 64


def test_a_stream_gives_results_as_soon_as_it_can():
  logits = np.zeros((2, MOST, 3), np.float32)
  logits[0, :8, 0] = 9
  running = make(logits, point_of((2, 4), (0.9, 0.0)))
  fed = []

  def batches():
    for i in range(0, 12, 4):
      fed.append(i)
      yield images_of(range(i, i + 4))

  stream = running.stream(batches())
  next(stream)
  assert fed == [0]
  next(stream)
  assert fed == [0, 4]


def test_a_stream_may_use_its_buffer_again():
  logits = np.zeros((2, MOST, 3), np.float32)
  logits[1, np.arange(MOST), np.arange(MOST) % 3] = 5
  running = make(logits, point_of((2, 4), (0.9, 0.0)))

  def batches():
    buffer = np.zeros((3, 1, 1, 1), np.uint8)
    for i in range(0, 39, 3):
      buffer[:] = images_of(range(i, i + 3))
      yield buffer

  labels = np.concatenate([result.labels for result in running.stream(batches())])
  np.testing.assert_array_equal(labels, np.arange(39) % 3)


@pytest.mark.parametrize('max_delay', [0, 2])
def test_a_rare_exit_delays_no_more_than_asked(max_delay):
  logits = np.full((2, MOST, 3), 9.0, np.float32) * [1, 0, 0]
  logits[0, 0] = 0  # the first input alone goes on
  running = make(logits.astype(np.float32), point_of((2, 4), (0.9, 0.0)))
  fed = 0

  def batches():
    nonlocal fed
    for i in range(0, MOST, 4):
      fed += 1
      yield images_of(range(i, i + 4))

  next(running.stream(batches(), max_delay=max_delay))
  assert fed == max_delay + 1


def test_nan_logits_go_on_and_leave_the_word_to_others():
  logits = np.array([[[np.nan, 0, 0], [9, 0, 0]], [[0, 3, 0], [0, 3, 0]]], np.float32)
  running = make(logits, point_of((2, 4), (0.5, 0.0)))
  for result in (running(images_of([0, 1])), running(images_of([0]))):
    assert result.precisions[0] == 4
    assert result.labels[0] == 1
    assert np.isfinite(result.probabilities).all()


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'variables': {'params': {}}}, 'freeze them first'),
    ({'path_batch_size': 24}, 'path_batch_size=24: give a power of two'),
    ({'operating_point': point_of((2, 8), (0.5, 0))}, r'for bits=\(2, 8\), the network has'),
  ],
)
def test_what_cannot_run_is_refused(arguments, message):
  defaults = {
    'network': Table((2, 4)),
    'variables': {'onion': {}, 'logits': np.zeros((2, MOST, 3), np.float32)},
    'operating_point': point_of((2, 4), (0.5, 0)),
  }
  with pytest.raises(ValueError, match=message):
    cascade.Cascade(**(defaults | arguments))


def test_calls_that_cannot_run_are_refused():
  running = make(np.zeros((2, 3, 3), np.float32), point_of((2, 4), (0.5, 0)))
  wrong: Any
  for wrong in (images_of([]), images_of([0])[0], images_of([0]).astype(float), [[0]]):
    with pytest.raises(ValueError, match=r'images are .*: give uint8 \[batch, height'):
      running(wrong)
    with pytest.raises(ValueError, match=r'images are .*: give uint8 \[batch, height'):
      list(running.stream([wrong]))
  with pytest.raises(ValueError, match=r'images of shape \[2, 2, 1\] after \[1, 1, 1\]'):
    list(running.stream([images_of([0, 1, 2, 0]), np.zeros((4, 2, 2, 1), np.uint8)]))
  with pytest.raises(ValueError, match='max_delay=-1'):
    running.stream([], max_delay=-1)
  with pytest.raises(ValueError, match='precision 3'):
    running(images_of([0]), max_precision=3)


@pytest.mark.parametrize(
  ('model', 'sum_logits'),
  [
    (TinyNet(), False),
    (TinyNet(), True),
    pytest.param(CifarResNet(depth=8, width=4), False, marks=pytest.mark.nightly),
  ],
  ids=['tiny', 'tiny-sum_logits', 'resnet'],
)
def test_a_real_network_leaves_where_its_paths_say(model: Any, sum_logits: bool):
  network = Onion(model, bits=(2, 4, 8), sum_logits=sum_logits)
  images = np.random.default_rng(0).integers(0, 256, (21, 8, 8, 1)).astype(np.uint8)
  variables = network.freeze(network.init(jax.random.key(0), jnp.asarray(images[:1])))
  for params in variables['params'].values():
    if LOGIT_SCALE in params:
      params[LOGIT_SCALE] += 0.7
  logits = np.asarray(jax.jit(network.apply)(variables, images))
  rerun = curve.rerun_curve(logits, np.zeros(21, int), network.bits, 'normalised')
  middle = rerun.points[len(rerun.points) // 2]
  point = operating_point.from_curve(
    rerun, middle, 'mean', combination.plain_weights('mean', 3), [1.0] * 3
  )
  running = cascade.Cascade(network, variables, point, path_batch_size=8)
  left = point.predict(logits)
  result = running(images)
  np.testing.assert_array_equal(result.precisions, np.take(network.bits, left.exits))
  # Other programs, other sizes: sums in another order.
  np.testing.assert_allclose(result.probabilities, left.probabilities, rtol=1e-4)
  assert result.precisions.mean() == rerun.average_bits[middle]
  streamed = list(running.stream(images[i : i + 5] for i in range(0, 21, 5)))
  np.testing.assert_allclose(
    np.concatenate([each.probabilities for each in streamed]), left.probabilities, rtol=1e-4
  )
  # Small batches, of one program each.
  for size in (1, 3, 8):
    parts = [running(images[i : i + size]) for i in range(0, 21, size)]
    precisions = np.concatenate([each.precisions for each in parts])
    np.testing.assert_array_equal(precisions, result.precisions)
    probabilities = np.concatenate([each.probabilities for each in parts])
    np.testing.assert_allclose(probabilities, left.probabilities, rtol=1e-4)
