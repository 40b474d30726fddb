"""Tests of `dpoq_jax.data.examples`."""

import pathlib
import subprocess
import sys

import hypothesis
from hypothesis import strategies
import numpy as np
import pytest

from dpoq_jax.data import examples, in_memory
from dpoq_jax.data.order import Order, steps_per_epoch


def numbered(num_examples: int) -> in_memory.ImageSet:
  """A set whose images hold their own index, four bytes as four pixels; label = index % 3."""
  indices = np.arange(num_examples, dtype='<u4')
  images = indices.view(np.uint8).reshape(-1, 2, 2, 1)
  return in_memory.ImageSet(images, (indices % 3).astype(np.int32), ('a', 'b', 'c'))


def indices_of(batch: dict[str, np.ndarray]) -> np.ndarray:
  """Reads the indices back, having checked types and that labels stayed with their images."""
  assert batch['image'].dtype == np.uint8
  assert batch['label'].dtype == np.int32
  indices = np.ascontiguousarray(batch['image']).reshape(-1, 4).view('<u4')[:, 0]
  np.testing.assert_array_equal(batch['label'], indices % 3)
  return indices


def training_batches(
  num_examples: int, *, batch_size: int, seed: int, epoch: int, start: int = 0
) -> examples.Batches:
  """The batches of one epoch, from `start`: a run of so many epochs, resumed in its last one."""
  order = Order(num_examples, batch_size, seed, epoch + 1)
  steps = num_examples // batch_size
  return numbered(num_examples).training_batches(order, epoch * steps + start)


def order_of(num_examples: int, **arguments) -> list[list[int]]:
  batches = training_batches(num_examples, **arguments)
  return [indices_of(batch).tolist() for batch in batches]


@pytest.mark.parametrize(
  ('num_examples', 'batch_size', 'steps'), [(50_000, 128, 390), (10, 10, 1), (19, 10, 1), (3, 1, 3)]
)
def test_steps_per_epoch_drops_the_remainder(num_examples, batch_size, steps):
  assert steps_per_epoch(num_examples, batch_size) == steps


@pytest.mark.parametrize('batch_size', [0, -1, 11])
def test_steps_per_epoch_refuses(batch_size):
  with pytest.raises(ValueError, match=f'batch_size={batch_size}: .* 1 to 10 examples'):
    steps_per_epoch(10, batch_size)


@hypothesis.given(strategies.data())
def test_an_epoch_is_full_batches_of_different_examples(data):
  num_examples = data.draw(strategies.integers(1, 300))
  batch_size = data.draw(strategies.integers(1, num_examples))
  seed, epoch = data.draw(strategies.tuples(*[strategies.integers(0, 2**40)] * 2))
  batches = order_of(num_examples, batch_size=batch_size, seed=seed, epoch=epoch)
  assert {len(batch) for batch in batches} == {batch_size}
  seen = [index for batch in batches for index in batch]
  assert len(set(seen)) == len(seen) == num_examples // batch_size * batch_size
  assert max(seen) < num_examples
  # Resuming anywhere in mid-epoch continues it.
  start = data.draw(strategies.integers(0, len(batches)))
  rest = order_of(num_examples, batch_size=batch_size, seed=seed, epoch=epoch, start=start)
  assert rest == batches[start:]


def test_the_order_never_changes():
  # A run started with one release is resumed with another; then these must be the same.
  assert order_of(10, batch_size=4, seed=0, epoch=0) == [[4, 6, 2, 7], [3, 5, 9, 0]]
  assert order_of(10, batch_size=4, seed=0, epoch=1) == [[9, 1, 3, 8], [7, 6, 0, 4]]


def test_every_seed_and_epoch_has_an_order_of_its_own():
  orders = {
    tuple(order_of(50, batch_size=50, seed=seed, epoch=epoch)[0])
    for seed in range(5)
    for epoch in range(5)
  }
  assert len(orders) == 25


def test_the_order_does_not_depend_on_the_batch_size():
  fours, sixes = (order_of(24, batch_size=size, seed=7, epoch=3) for size in (4, 6))
  np.testing.assert_array_equal(np.ravel(fours), np.ravel(sixes))


def test_no_example_is_left_out_for_ever():
  seen = {
    index
    for epoch in range(30)
    for batch in order_of(10, batch_size=6, seed=0, epoch=epoch)
    for index in batch
  }
  assert seen == set(range(10))


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'batch_size': 11}, 'batch_size=11'),
    ({'seed': -1}, 'seed=-1'),
    ({'epoch': -1}, 'epochs=0'),
    ({'start': -1}, 'start=-1: a run of 2 steps'),
    ({'start': 3}, 'start=3: a run of 2 steps'),
  ],
)
def test_training_batches_refuses_before_the_first_batch(change, message):
  arguments = {'batch_size': 4, 'seed': 0, 'epoch': 0} | change
  with pytest.raises(ValueError, match=message):
    training_batches(10, **arguments)


@hypothesis.given(strategies.integers(1, 100), strategies.integers(1, 120))
def test_evaluation_sees_every_example_once_in_order(num_examples, batch_size):
  seen = []
  for batch in numbered(num_examples).evaluation_batches(batch_size):
    assert batch['image'].shape == (batch_size, 2, 2, 1)
    assert batch['mask'].shape == (batch_size,)
    assert batch['mask'].dtype == bool
    assert not batch['image'][~batch['mask']].any()
    seen += indices_of(batch)[batch['mask']].tolist()
  assert seen == list(range(num_examples))


def test_evaluation_batches_refuses_before_the_first_batch():
  with pytest.raises(ValueError, match='batch_size=0'):
    numbered(10).evaluation_batches(0)


def test_batches_need_no_jax():
  script = 'import sys; from dpoq_jax.data import examples; sys.exit("jax" in sys.modules)'
  subprocess.run([sys.executable, '-c', script], check=True, cwd=pathlib.Path(__file__).parents[2])


@hypothesis.given(strategies.data())
def test_processes_share_out_each_batch(data):
  share, processes = data.draw(strategies.tuples(*[strategies.integers(1, 5)] * 2))
  batch_size = share * processes
  num_examples = data.draw(strategies.integers(batch_size, 60))
  whole = Order(num_examples, batch_size, 3, 2)
  start = data.draw(strategies.integers(0, whole.steps))
  parts = [
    Order(num_examples, batch_size, 3, 2, process, processes) for process in range(processes)
  ]
  shares = [numbered(num_examples).training_batches(part, start) for part in parts]
  expected = list(numbered(num_examples).training_batches(whole, start))
  assert len(expected) == whole.steps - start
  for batch, *pieces in zip(expected, *shares, strict=True):
    together = np.concatenate([piece['image'] for piece in pieces])
    np.testing.assert_array_equal(together, batch['image'])


@pytest.mark.parametrize(
  ('process', 'processes', 'message'),
  [(2, 2, 'process=2: there are 2'), (0, 3, 'batch_size=4 is not divisible by the 3 processes')],
)
def test_processes_that_cannot_share_are_refused(process, processes, message):
  with pytest.raises(ValueError, match=message):
    Order(10, 4, 0, 1, process, processes)
