"""The rerun curve: accuracy against cost as inputs move up, one at a time, and its thresholds.

Start with all inputs at the lowest precision; repeatedly upgrade, by one precision, the input with
the smallest key (section 3.3, Figure 3). With p the confidence at the precision of b bits:

    order               key                smallest first
    precision_first     (b, p)             a precision is finished before the next is started
    confidence_first    p
    normalised (eq. 9)  p ** (b_1 / b)
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import numpy as np

from dpoq_jax import onion
from dpoq_jax.inference import combination, exits

ORDERS = ('precision_first', 'confidence_first', 'normalised')

NEVER = 2.0
"""A threshold that no confidence reaches: everything moves on."""


@dataclasses.dataclass(frozen=True, eq=False)
class RerunCurve:
  """States of the rerun, from all inputs at the lowest precision to all at the highest.

  With N inputs and K precisions there are `N (K - 1) + 1` states; every array has one entry for
  each.

  Attributes:
    bits: the bit list.
    order: one of `ORDERS`.
    cost: mean BitOPs relative to the lowest precision, from 1 to b_K / b_1.
    average_bits: the same in bits, from b_1 to b_K.
    accuracy: top-1, in [0, 1].
    key: what the state's threshold is: inputs whose key is at least this have left. The order
      `precision_first` finishes precision after precision; there it is a confidence of the one in
      progress. Infinite in the last state, where everything has moved on.
    reachable: whether thresholds lead there. They do not into the middle of inputs of equal keys,
      or between two upgrades of an input that became less confident by the first.
    confidence: [precisions, examples], what keys are made of.
  """

  bits: tuple[int, ...]
  order: str
  cost: np.ndarray
  average_bits: np.ndarray
  accuracy: np.ndarray
  key: np.ndarray
  reachable: np.ndarray
  confidence: np.ndarray

  def __len__(self) -> int:
    """Number of states."""
    return len(self.cost)

  @functools.cached_property
  def points(self) -> np.ndarray:
    """Indices of the states that thresholds lead to, increasing."""
    return np.flatnonzero(self.reachable)

  def thresholds(self, point: int) -> tuple[float, ...]:
    """The threshold of each precision that leads to a state: leave at `confidence >= threshold`.

    Of all keys that split these inputs alike, the middle one: an input whose confidence comes out
    with another last bit on another device is then still treated alike.

    Returns:
      One per precision; 0 where everything leaves, `NEVER` where everything moves on. The highest
      precision's is 0.

    Raises:
      ValueError: if thresholds do not lead to the state.
    """
    key, precision = self.middle_key(point), self.in_progress(point)
    thresholds = thresholds_of_key(self.order, key, self.bits, precision)
    exact, here = [], np.ones(self.confidence.shape[1], bool)
    for b, confidence, threshold in zip(self.bits[:-1], self.confidence, thresholds, strict=False):
      if precision in (None, b):
        moves_on = _keys(confidence, b, self.bits[0], self.order) < self.key[point]
        threshold = _mend(threshold, confidence[here & ~moves_on], confidence[here & moves_on])
      exact.append(threshold)
      here &= confidence < threshold
    return (*exact, 0.0)

  def middle_key(self, point: int) -> float:
    """The key half-way between the last input that moved on and the next that would.

    Raises:
      ValueError: if thresholds do not lead to the state.
    """
    if not self.reachable[point]:
      below, above = self.points[self.points < point][-1], self.points[self.points > point][0]
      raise ValueError(
        f'point {point}: no thresholds lead there, as inputs move on together; the nearest are '
        f'{below} and {above}.'
      )
    in_progress = point % self.confidence.shape[1] if self.order == 'precision_first' else point
    if point == len(self) - 1 > 0:
      return NEVER
    return float(self.key[point - 1] + self.key[point]) / 2 if in_progress else 0.0

  def in_progress(self, point: int) -> int | None:
    """Bits of the precision that inputs are leaving; None unless the order is `precision_first`."""
    if self.order != 'precision_first':
      return None
    stage = point // self.confidence.shape[1]
    return self.bits[min(stage, max(len(self.bits) - 2, 0))]


def rerun_curve(
  logits: Any,
  labels: Any,
  bits: Sequence[int],
  order: str,
  combine: str | Sequence[Sequence[float]] = 'mean',
  temperatures: Sequence[float] | None = None,
) -> RerunCurve:
  """Accuracy and cost of every state of the rerun; equal keys move in the order of the inputs.

  Args:
    logits: [precisions, examples, classes].
    labels: int [examples].
    bits: the bit list.
    order: one of `ORDERS`.
    combine: what an exit predicts from, one of `combination.COMBINATIONS`, or weights: row k those
      of exit k. `weighted` fits them here.
    temperatures: one per precision; all 1 by default.

  Raises:
    ValueError: for logits, labels, an order or a combination that are not those.
  """
  if order not in ORDERS:
    raise ValueError(f'order={order!r}: an order is one of {", ".join(ORDERS)}.')
  logits, labels = exits.check_logits(logits, labels, bits)
  bits = onion.check_bits(bits)
  if combine == 'weighted':
    combine = combination.fit_weights(logits, labels, temperatures)
  weights = combination.plain_weights(combine, len(bits)) if isinstance(combine, str) else combine
  confidence, correct = exits.evaluate(logits, labels, weights, temperatures)

  moves, key, reachable = _order_of_moves(confidence, bits, order)
  # Integers until the last division: a cascade that counts arrives at the same numbers.
  ring = np.diff(bits).astype(np.int64)
  gain = np.diff(correct.astype(np.int64), axis=0)
  spent = _running_sum(len(labels) * bits[0], np.broadcast_to(ring, gain.T.shape).ravel()[moves])
  right = _running_sum(int(correct[0].sum()), gain.T.ravel()[moves])
  average_bits = spent / len(labels)
  return RerunCurve(
    bits=bits,
    order=order,
    cost=average_bits / bits[0],
    average_bits=average_bits,
    accuracy=right / len(labels),
    key=key,
    reachable=reachable,
    confidence=confidence,
  )


def thresholds_of_key(
  order: str, key: float, bits: Sequence[int], precision: int | None = None
) -> tuple[float, ...]:
  """Thresholds of a key given by hand, one per precision, the highest precision's 0.

  Args:
    order: one of `ORDERS`.
    key: a confidence, in [0, 1]; above, nothing leaves early.
    bits: the bit list.
    precision: bits of the precision in progress; with `precision_first` only.

  Raises:
    ValueError: for a key, order or precision that are not those.
  """
  bits = onion.check_bits(bits)
  if not 0 <= key <= NEVER:
    raise ValueError(f'key={key}: a key is a confidence, from 0 to 1; above, nothing leaves early.')
  if order != 'precision_first' and precision is not None:
    raise ValueError(f'precision={precision}: only keys of the order precision_first have one.')
  if len(bits) == 1:
    return (0.0,)
  if order == 'precision_first':
    if precision not in bits[:-1]:
      raise ValueError(
        f'precision={precision}: with the order precision_first a key belongs to one of the '
        f'precisions {bits[:-1]}.'
      )
    levels = [NEVER if b < precision else key if b == precision else 0.0 for b in bits]
  elif order == 'confidence_first':
    levels = [key] * len(bits)
  elif order == 'normalised':
    levels = [key ** (b / bits[0]) for b in bits]
  else:
    raise ValueError(f'order={order!r}: an order is one of {", ".join(ORDERS)}.')
  return (*map(float, levels[:-1]), 0.0)


def _order_of_moves(
  confidence: np.ndarray, bits: tuple[int, ...], order: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """In which order inputs move up, without a queue.

  An input that a move made less confident is the next to move: nothing else waits at so small a
  key. It moves when its largest key so far was due, so that sorting by that gives the queue's
  order. A stable sort leaves the moves of an input in sequence, and equal keys in that of inputs.

  Returns:
    The moves, as indices into [examples, precisions - 1] laid flat; key and reachability of the
    states before, between and after them.
  """
  count, examples = confidence.shape
  keys = np.array([_keys(c, b, bits[0], order) for c, b in zip(confidence, bits, strict=True)])
  if order == 'precision_first':
    # By precision, each in the order of its confidences.
    sequence = keys[:-1].argsort(axis=1, kind='stable')
    moves = (sequence * (count - 1) + np.arange(count - 1)[:, None]).ravel()
    level = np.take_along_axis(keys[:-1], sequence, axis=1).ravel()
    stage = np.repeat(np.arange(count - 1), examples)
  else:
    due = np.maximum.accumulate(keys[:-1], axis=0).T.ravel()
    moves = due.argsort(kind='stable')
    level, stage = due[moves], np.zeros(len(moves), int)
  reachable = np.ones(len(moves) + 1, bool)
  reachable[1:-1] = (level[1:] != level[:-1]) | (stage[1:] != stage[:-1])
  return moves, np.append(level, np.inf), reachable


def _keys(confidence: np.ndarray, bits: int, lowest: int, order: str) -> np.ndarray:
  return confidence ** (lowest / bits) if order == 'normalised' else confidence


def _mend(threshold: float, leaving: np.ndarray, moving_on: np.ndarray) -> float:
  """`threshold`, or another where rounding put it on the wrong side of a confidence."""
  least, most = leaving.min(initial=NEVER), moving_on.max(initial=-np.inf)
  return threshold if most < threshold <= least else float(least)


def _running_sum(first: int, steps: np.ndarray) -> np.ndarray:
  return np.cumsum(np.concatenate([[first], steps]))
