"""What an exit knows and predicts: confidence of the precision just run, combination of all run.

Everything is float64 and row by row, so that an input gets the same numbers in a data set of 50,000
as in a batch of one.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dpoq_jax import onion
from dpoq_jax.inference import temperature as temperature_lib
from dpoq_jax.inference.combination import combined

_BLOCK = 2**22  # Numbers per block: bounds the memory that probabilities take.


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
    for k, temperature in enumerate(temperature_lib.given_or_ones(temperatures, count)):
      run.append(temperature_lib.probabilities(logits[k, block], temperature))
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
