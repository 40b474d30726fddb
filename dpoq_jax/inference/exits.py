"""Evaluates how confident, and whether correct, every exit is on examples with known logits.

Whether an input leaves at a precision depends on the confidence of that precision alone; what the
exit then predicts is a combination of all precisions up to there.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dpoq_jax import onion
from dpoq_jax.inference import combination, temperature

# Numbers per block of examples: bounds the memory that their probabilities take.
_BLOCK = 2**22


class Exits(NamedTuple):
  """Holds what every exit would do with every example, both [precisions, examples].

  Attributes:
    confidence: float64, largest probability of the exit's precision alone.
    correct: bool, whether the combination of the exit predicts the label.
  """

  confidence: np.ndarray
  correct: np.ndarray


class ExitPredictions(NamedTuple):
  """Holds what inputs are predicted to be, and the exit of each.

  Attributes:
    labels: int64 [examples], the most probable class.
    probabilities: float64 [examples, classes], by the combination of the exit.
    exits: int64 [examples], index of the precision that each input left at.
  """

  labels: np.ndarray
  probabilities: np.ndarray
  exits: np.ndarray


def evaluate(
  logits: np.ndarray,
  labels: np.ndarray,
  weights: combination.Weights,
  temperatures: Sequence[float] | None = None,
) -> Exits:
  """Returns the confidence and the correctness of every exit on every example.

  Args:
    logits: [precisions, examples, classes].
    labels: int [examples].
    weights: weights of every exit; entry k holds the `k + 1` of exit k.
    temperatures: one per precision; all 1 by default.
  """
  count, examples, classes = logits.shape
  temperatures = temperature.given_or_ones(temperatures, count)
  confidence = np.empty((count, examples))
  correct = np.empty((count, examples), bool)
  step = max(1, _BLOCK // (count * classes))
  for start in range(0, examples, step):
    block = slice(start, start + step)
    run: list[np.ndarray] = []
    for k in range(count):
      run.append(temperature.probabilities(logits[k, block], temperatures[k]))
      confidence[k, block] = run[k].max(axis=-1)
      predicted = combination.combined(run, weights[k]).argmax(axis=-1)
      correct[k, block] = predicted == labels[block]
  return Exits(confidence, correct)


def check_logits(logits: Any, labels: Any, bits: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
  """Returns logits and labels as arrays, after checking that they fit one another and the bits.

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
