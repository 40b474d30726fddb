"""Computes the rerun curve: accuracy against cost as inputs move up, and the thresholds along it.

All inputs start at the lowest precision; then the input with the smallest key moves up by one
precision, again and again (section 3.3, Figure 3). An order says what the key is, with p the
confidence of the input at its precision of b bits:

    order               key                smallest first
    precision_first     (b, p)             finishes a precision before it starts the next
    confidence_first    p
    normalised (eq. 9)  p ** (b_1 / b)
"""

from collections.abc import Sequence
import dataclasses
import functools
import itertools
import typing
from typing import Any, Literal

import numpy as np

from dpoq_jax import onion
from dpoq_jax.inference import combination, exits
from dpoq_jax.inference.combination import Combination, Weights

Order = Literal['precision_first', 'confidence_first', 'normalised']
"""Order in which inputs move up."""

ORDERS: tuple[Order, ...] = typing.get_args(Order)

NEVER = 2.0
"""Threshold that no confidence reaches, so that every input moves on."""


@dataclasses.dataclass(frozen=True, eq=False)
class RerunCurve:
  """Describes every state of the rerun, from all inputs at the lowest precision to the highest.

  With N inputs and K precisions there are `N (K - 1) + 1` states; every array but `confidence` has
  one entry for each.

  Attributes:
    bits: the bit list.
    order: one of `ORDERS`.
    bitops: BitOPs of an input that leaves at each precision, up to a common factor.
    cost: mean BitOPs relative to the lowest precision, from 1.
    average_bits: mean bits of the precision that inputs are at, from b_1 to b_K.
    accuracy: top-1, in [0, 1].
    key: threshold on keys in the state: inputs with at least this key have left. In the order
      `precision_first` it is a confidence at the precision in progress. Infinite in the last state,
      where every input has moved on.
    reachable: whether thresholds lead to the state. None lead to one between two inputs of equal
      keys, or between two moves of an input that became less confident by the first.
    confidence: confidence of every input at every precision, [precisions, examples].
  """

  bits: tuple[int, ...]
  order: Order
  bitops: tuple[int, ...]
  cost: np.ndarray
  average_bits: np.ndarray
  accuracy: np.ndarray
  key: np.ndarray
  reachable: np.ndarray
  confidence: np.ndarray

  def __len__(self) -> int:
    """Returns the number of states."""
    return len(self.cost)

  @functools.cached_property
  def points(self) -> np.ndarray:
    """Returns the indices of the states that thresholds lead to, increasing."""
    return np.flatnonzero(self.reachable)

  def thresholds(self, point: int) -> tuple[float, ...]:
    """Returns the thresholds that lead to a state: leave where `confidence >= threshold`.

    They are those of the key half-way between the inputs that moved on and those that did not.
    An input whose confidence has another last bit on another device is then still treated alike.

    Args:
      point: index of the state.

    Returns:
      One threshold per precision: 0 where every input leaves, as at the highest one, `NEVER` where
      every input moves on.

    Raises:
      ValueError: if thresholds do not lead to the state.
    """
    key, precision = self.middle_key(point), self.in_progress(point)
    thresholds = thresholds_of_key(self.order, key, self.bits, precision)
    exact: list[float] = []
    here = np.ones(self.confidence.shape[1], bool)
    for b, confidence, threshold in zip(self.bits[:-1], self.confidence, thresholds, strict=False):
      if precision in (None, b):
        moves_on = _keys(confidence, b, self.bits[0], self.order) < self.key[point]
        threshold = _separating(
          threshold, confidence[here & ~moves_on], confidence[here & moves_on]
        )
      exact.append(threshold)
      here &= confidence < threshold
    return (*exact, 0.0)

  def middle_key(self, point: int) -> float:
    """Returns the key half-way between the last input that moved on and the next that would.

    Raises:
      ValueError: if thresholds do not lead to the state.
    """
    if not self.reachable[point]:
      below, above = self.points[self.points < point][-1], self.points[self.points > point][0]
      raise ValueError(
        f'point {point}: no thresholds lead there, as inputs move on together; the nearest are '
        f'{below} and {above}.'
      )
    moves = point % self.confidence.shape[1] if self.order == 'precision_first' else point
    if point == len(self) - 1 > 0:
      return NEVER
    return float(self.key[point - 1] + self.key[point]) / 2 if moves else 0.0

  def in_progress(self, point: int) -> int | None:
    """Returns the bits of the precision that inputs are leaving, for `precision_first` only."""
    if self.order != 'precision_first':
      return None
    # In the last state the second highest precision is finished, and is still the one in progress.
    stage: int = min(point // self.confidence.shape[1], max(len(self.bits) - 2, 0))
    return self.bits[stage]


def rerun_curve(
  logits: Any,
  labels: Any,
  bits: Sequence[int],
  order: Order,
  combine: Combination | Weights = 'mean',
  temperatures: Sequence[float] | None = None,
  bitops: Sequence[int] | None = None,
) -> RerunCurve:
  """Returns accuracy and cost of every state of the rerun; equal keys move in the inputs' order.

  Two inputs at 2 and 4 bits. At 2 bits the first is right and sure of it, the second is wrong and
  unsure, so it moves up first and gets it right:

  >>> logits = [[[4.0, 0.0], [0.2, 0.0]], [[5.0, 0.0], [0.0, 3.0]]]
  >>> curve = rerun_curve(logits, labels=[0, 1], bits=(2, 4), order='normalised')
  >>> curve.average_bits.tolist()
  [2.0, 3.0, 4.0]
  >>> curve.accuracy.tolist()
  [0.5, 1.0, 1.0]
  >>> [round(threshold, 2) for threshold in curve.thresholds(1)]
  [0.77, 0.0]

  Args:
    logits: [precisions, examples, classes].
    labels: int [examples].
    bits: the bit list.
    order: one of `ORDERS`.
    combine: what an exit predicts from: one of `COMBINATIONS`, of which `weighted` is fitted to
      these examples, or the weights of every exit.
    temperatures: one per precision; all 1 by default.
    bitops: BitOPs of an input that leaves at each precision, up to a common factor. None takes the
      bits themselves: the paper's cost, of convolutions alone and equal activation bits.

  Raises:
    ValueError: for logits, labels, an order, a combination or BitOPs that are not those.
  """
  _check_order(order)
  logits, labels = exits.check_logits(logits, labels, bits)
  bits = onion.check_bits(bits)
  if combine == 'weighted':
    combine = combination.fit_weights(logits, labels, temperatures)
  weights = combination.plain_weights(combine, len(bits)) if isinstance(combine, str) else combine
  confidence, correct = exits.evaluate(logits, labels, weights, temperatures)

  moves, key, reachable = _order_of_moves(confidence, bits, order)
  # Integers until the last division, so that a cascade that counts arrives at the same numbers.
  gain = np.diff(correct.astype(np.int64), axis=0)

  def mean(of_precisions: Sequence[int]) -> np.ndarray:
    """Returns the mean over inputs, in every state, of a number that each precision has."""
    step = np.broadcast_to(np.diff(of_precisions).astype(np.int64), gain.T.shape)
    return _running_sum(len(labels) * of_precisions[0], step.ravel()[moves]) / len(labels)

  bitops = check_bitops(bitops or bits, bits)
  right = _running_sum(int(correct[0].sum()), gain.T.ravel()[moves])
  return RerunCurve(
    bits=bits,
    order=order,
    bitops=bitops,
    cost=mean(bitops) / bitops[0],
    average_bits=mean(bits),
    accuracy=right / len(labels),
    key=key,
    reachable=reachable,
    confidence=confidence,
  )


def evenly_spread_states(rerun: RerunCurve, count: int) -> Sequence[int]:
  """Returns up to `count` states that thresholds lead to, evenly spread in cost, with both ends."""
  costs = rerun.cost[rerun.points]
  aims = np.linspace(costs[0], costs[-1], count)
  above = np.searchsorted(costs, aims)
  below = np.maximum(above - 1, 0)
  nearest = np.where(costs[above] - aims <= aims - costs[below], above, below)
  return rerun.points[np.unique(nearest)].tolist()


def check_bitops(bitops: Sequence[int], bits: Sequence[int]) -> tuple[int, ...]:
  """Returns the BitOPs of every precision as a tuple.

  Raises:
    ValueError: unless there is a number for each precision, each above the one before.
  """
  if len(bitops) != len(bits) or not all(a < b for a, b in itertools.pairwise((0, *bitops))):
    raise ValueError(
      f'bitops={tuple(bitops)}: give one positive number for each of bits={tuple(bits)}, increasing'
    )
  return tuple(bitops)


def thresholds_of_key(
  order: Order, key: float, bits: Sequence[int], precision: int | None = None
) -> tuple[float, ...]:
  """Returns the thresholds of a key given by hand, one per precision, the highest one's 0.

  Args:
    order: one of `ORDERS`.
    key: a confidence, in [0, 1]; above 1 nothing leaves early.
    bits: the bit list.
    precision: bits of the precision in progress, for the order `precision_first` only.

  Raises:
    ValueError: for a key, order or precision that are not those.
  """
  bits = onion.check_bits(bits)
  _check_order(order)
  if not 0 <= key <= NEVER:
    raise ValueError(f'key={key}: a key is a confidence, from 0 to 1; above, nothing leaves early.')
  if order != 'precision_first' and precision is not None:
    raise ValueError(f'precision={precision}: only keys of the order precision_first have one.')
  if len(bits) == 1:
    return (0.0,)
  if order == 'normalised':
    levels = [key ** (b / bits[0]) for b in bits]
  elif order == 'confidence_first':
    levels = [key] * len(bits)
  else:
    if precision not in bits[:-1]:
      raise ValueError(
        f'precision={precision}: with the order precision_first a key belongs to one of the '
        f'precisions {bits[:-1]}.'
      )
    levels = [NEVER if b < precision else key if b == precision else 0.0 for b in bits]
  return (*map(float, levels[:-1]), 0.0)


def _check_order(order: str) -> None:
  if order not in ORDERS:
    raise ValueError(f'order={order!r}: an order is one of {", ".join(ORDERS)}.')


def _order_of_moves(
  confidence: np.ndarray, bits: tuple[int, ...], order: Order
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns the order in which inputs move up, found by sorting in place of a queue.

  An input that a move made less confident is the next to move, as nothing else in the queue has so
  small a key. So a move is due when the largest key that its input had so far is due, and sorting
  by that gives the order of a queue. The sort is stable: the moves of an input stay in sequence,
  and inputs of equal keys in their own order.

  Returns:
    The moves, as indices into [examples, precisions - 1] laid flat; key and reachability of the
    states before, between and after them.
  """
  stages, examples = len(bits) - 1, confidence.shape[1]
  keys = np.array([_keys(c, b, bits[0], order) for c, b in zip(confidence, bits, strict=True)])
  if order == 'precision_first':
    # One precision after the other, each in the order of its confidences.
    sequence = keys[:-1].argsort(axis=1, kind='stable')
    moves = (sequence * stages + np.arange(stages)[:, None]).ravel()
    level = np.take_along_axis(keys[:-1], sequence, axis=1).ravel()
    stage = np.repeat(np.arange(stages), examples)
  else:
    due = np.maximum.accumulate(keys[:-1], axis=0).T.ravel()
    moves = due.argsort(kind='stable')
    level, stage = due[moves], np.zeros(len(moves), int)
  reachable = np.ones(len(moves) + 1, bool)
  reachable[1:-1] = (level[1:] != level[:-1]) | (stage[1:] != stage[:-1])
  return moves, np.append(level, np.inf), reachable


def _keys(confidence: np.ndarray, bits: int, lowest: int, order: Order) -> np.ndarray:
  return confidence ** (lowest / bits) if order == 'normalised' else confidence


def _separating(threshold: float, leaving: np.ndarray, moving_on: np.ndarray) -> float:
  """Returns `threshold`, or another if rounding put it on the wrong side of a confidence."""
  least, most = leaving.min(initial=NEVER), moving_on.max(initial=-np.inf)
  return threshold if most < threshold <= least else float(least)


def _running_sum(first: int, steps: np.ndarray) -> np.ndarray:
  return np.cumsum(np.concatenate([[first], steps]))
