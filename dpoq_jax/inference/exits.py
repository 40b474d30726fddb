"""What an exit knows and predicts: confidence of the precision just run, combination of all run.

Everything is float64 and row by row, so that an input gets the same numbers in a data set of 50,000
as in a batch of one.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.special

from dpoq_jax import onion

COMBINATIONS = ('mean', 'last', 'weighted')
"""Plain ensemble of what was run (the paper's), last precision alone, mean with fitted weights."""

_BLOCK = 2**22  # Numbers per block: bounds the memory that probabilities take.


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
  """Softmax of `logits / temperature`.

  Args:
    logits: [..., classes].
    temperature: above 1 less confident, below 1 more.

  Returns:
    float64 [..., classes]. Where logits hold a NaN, +inf or nothing but -inf, all classes are
    equally likely: the least confidence there can be, and no say in an ensemble.
  """
  scaled = np.ascontiguousarray(logits, np.float64) / temperature
  with np.errstate(invalid='ignore'):
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    result = exponentials / exponentials.sum(axis=-1, keepdims=True)
  result[~np.isfinite(result).all(axis=-1)] = 1 / result.shape[-1]
  return result


def combined(run: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
  """Weighted mean of the probabilities of the precisions that were run.

  Args:
    run: probabilities [..., classes] of each precision, from the lowest up.
    weights: one for each of them, not negative, some positive; need not add up to 1.
  """
  total = weights[0] * run[0]
  for weight, each in zip(weights[1:], run[1:], strict=True):
    total = total + weight * each
  return total / sum(weights)


def plain_weights(combine: str, count: int) -> tuple[tuple[float, ...], ...]:
  """Weights of the exits that `mean` or `last` stand for, row k those of exit k.

  Raises:
    ValueError: for another name.
  """
  if combine == 'mean':
    return tuple((1.0,) * (k + 1) for k in range(count))
  if combine == 'last':
    return tuple((0.0,) * k + (1.0,) for k in range(count))
  raise ValueError(f'combine={combine!r}: a combination is one of {", ".join(COMBINATIONS)}.')


def fit_weights(
  logits: np.ndarray, labels: np.ndarray, temperatures: Sequence[float] | None = None
) -> tuple[tuple[float, ...], ...]:
  """Weights that make the labels most likely under the weighted mean of each exit.

  Mixture weights by expectation-maximisation, an exit at a time; the likelihood is concave in
  them and rises with every iteration.

  Args:
    logits: [precisions, examples, classes].
    labels: [examples].
    temperatures: one per precision; all 1 by default.

  Returns:
    Row k: `k + 1` weights that add up to 1.
  """
  likelihood = np.array(
    [
      _of_labels(probabilities(each, temperature), labels)
      for each, temperature in zip(logits, _each(temperatures, len(logits)), strict=True)
    ]
  )
  return tuple(_mixture(likelihood[: k + 1]) for k in range(len(logits)))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
  """The temperature in [0.05, 20] with the lowest cross-entropy on `logits` [examples, classes].

  Golden-section search on its logarithm; the cross-entropy is convex in 1 / temperature.
  """
  # Rows that say nothing are alike at every temperature; what is impossible is very unlikely.
  known = np.asarray(logits, np.float64)
  says_nothing = np.isnan(known).any(-1) | (known == np.inf).any(-1) | (known == -np.inf).all(-1)
  known = np.where(says_nothing[:, None], 0.0, np.maximum(known, -1e4))

  def loss(log_temperature: float) -> float:
    scaled = known / np.exp(log_temperature)
    return float((scipy.special.logsumexp(scaled, axis=-1) - _of_labels(scaled, labels)).mean())

  low, high = np.log(0.05), np.log(20.0)
  golden = (np.sqrt(5) - 1) / 2
  left, right = high - golden * (high - low), low + golden * (high - low)
  left_loss, right_loss = loss(left), loss(right)
  while high - low > 1e-4:
    if left_loss <= right_loss:
      high, right, right_loss = right, left, left_loss
      left = high - golden * (high - low)
      left_loss = loss(left)
    else:
      low, left, left_loss = left, right, right_loss
      right = low + golden * (high - low)
      right_loss = loss(right)
  return float(np.exp((low + high) / 2))


class Exits(NamedTuple):
  """What every exit would do with every example, both [precisions, examples].

  Attributes:
    confidence: max softmax of the precision alone, float64.
    correct: whether the exit's combination has the label, bool.
  """

  confidence: np.ndarray
  correct: np.ndarray


def evaluate(
  logits: np.ndarray,
  labels: np.ndarray,
  weights: Sequence[Sequence[float]],
  temperatures: Sequence[float] | None = None,
) -> Exits:
  """Confidence and correctness of every example at every exit.

  Args:
    logits: [precisions, examples, classes].
    labels: [examples].
    weights: row k those of exit k, `k + 1` of them.
    temperatures: one per precision; all 1 by default.
  """
  count, examples, classes = logits.shape
  confidence = np.empty((count, examples))
  correct = np.empty((count, examples), bool)
  step = max(1, _BLOCK // (count * classes))
  for start in range(0, examples, step):
    block = slice(start, start + step)
    run: list[np.ndarray] = []
    for k, temperature in enumerate(_each(temperatures, count)):
      run.append(probabilities(logits[k, block], temperature))
      confidence[k, block] = run[k].max(axis=-1)
      correct[k, block] = combined(run, weights[k]).argmax(axis=-1) == labels[block]
  return Exits(confidence, correct)


def check_logits(logits: Any, labels: Any, bits: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
  """Returns logits and labels as arrays.

  Raises:
    ValueError: unless logits are [precisions, examples, classes] with one precision for each of
      `bits`, at least one example and class, and labels [examples] are in [0, classes).
  """
  logits, labels, bits = np.asarray(logits), np.asarray(labels), onion.check_bits(bits)
  if logits.ndim != 3 or len(logits) != len(bits) or 0 in logits.shape:
    raise ValueError(
      f'logits of shape {list(logits.shape)}: for bits={bits} they are [{len(bits)}, examples, '
      'classes], with at least one example and one class.'
    )
  if labels.shape != logits.shape[1:2] or not np.issubdtype(labels.dtype, np.integer):
    raise ValueError(
      f'labels are {labels.dtype}{list(labels.shape)}: give {logits.shape[1]} integers, one for '
      'each example.'
    )
  if not 0 <= labels.min() <= labels.max() < logits.shape[2]:
    raise ValueError(
      f'labels run from {labels.min()} to {labels.max()}, but logits have {logits.shape[2]} '
      'classes.'
    )
  return logits, labels


def _each(temperatures: Sequence[float] | None, count: int) -> Sequence[float]:
  return (1.0,) * count if temperatures is None else temperatures


def _of_labels(each: np.ndarray, labels: np.ndarray) -> np.ndarray:
  return each[np.arange(len(labels)), labels]


def _mixture(likelihood: np.ndarray) -> tuple[float, ...]:
  """Weights [precisions] of a mixture, from the likelihood [precisions, examples] of its parts."""
  weights = np.full(len(likelihood), 1 / len(likelihood))
  # A label that every part thinks impossible says nothing about the weights.
  likelihood = likelihood[:, likelihood.max(axis=0) > 0]
  for _ in range(1000 if likelihood.size else 0):
    joint = weights[:, None] * likelihood
    updated = (joint / joint.sum(axis=0)).mean(axis=1)
    moved = np.abs(updated - weights).max()
    weights = updated
    if moved < 1e-6:
      break
  return tuple(float(weight) for weight in weights / weights.sum())
