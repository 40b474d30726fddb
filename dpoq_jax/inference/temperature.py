"""Softmax at a temperature, and the fit of that temperature."""

from collections.abc import Sequence

import numpy as np
import scipy.special


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
    return float(
      (scipy.special.logsumexp(scaled, axis=-1) - scaled[np.arange(len(labels)), labels]).mean()
    )

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


def given_or_ones(temperatures: Sequence[float] | None, count: int) -> Sequence[float]:
  """Returns the temperatures that were given, or 1 for each of `count` precisions."""
  return (1.0,) * count if temperatures is None else temperatures
