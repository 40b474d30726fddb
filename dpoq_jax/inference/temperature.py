"""Turns logits into probabilities at a temperature, and fits that temperature.

Everything is float64 and one input at a time, so that an input gets the same numbers in a data set
of 50,000 as in a batch of one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy

# SciPy comes without types. It loads a module when that is first used, so that only those who fit a
# temperature wait for its minimisers.
_scipy: Any = scipy

_LOWEST, _HIGHEST = 0.05, 20.0

# Relative error of a fitted temperature, far below what moves a threshold.
_TOLERANCE = 1e-5


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
  """Returns the softmax of `logits / temperature`.

  Args:
    logits: [..., classes].
    temperature: divisor of the logits; above 1 makes them less confident, below 1 more.

  Returns:
    float64 [..., classes]. Where the logits of an input hold a NaN, +inf or nothing but -inf, all
    classes are equally likely: the least possible confidence, and no influence on an ensemble.
  """
  scaled = np.ascontiguousarray(logits, np.float64) / temperature
  with np.errstate(invalid='ignore'):
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    result = exponentials / exponentials.sum(axis=-1, keepdims=True)
  result[~np.isfinite(result).all(axis=-1)] = 1 / result.shape[-1]
  return result


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
  """Returns the temperature in [0.05, 20] at which `logits` have the lowest cross-entropy.

  The cross-entropy is convex in 1 / temperature, so it has no other minimum in the logarithm of the
  temperature, which is what is searched.

  Args:
    logits: [examples, classes].
    labels: int [examples].
  """
  # Inputs that `probabilities` makes uniform are so at every temperature: zeros say the same. A
  # finite stand-in for -inf keeps the cross-entropy of an impossible label finite.
  known = np.asarray(logits, np.float64)
  uniform = np.isnan(known).any(-1) | (known == np.inf).any(-1) | (known == -np.inf).all(-1)
  known = np.where(uniform[:, None], 0.0, np.maximum(known, -1e4))
  # Relative to the label's own logit, a cross-entropy near 0 keeps all its digits.
  relative = known - np.take_along_axis(known, labels[:, None], axis=-1)

  def cross_entropy(log_temperature: float) -> float:
    return float(_scipy.special.logsumexp(relative * np.exp(-log_temperature), axis=-1).mean())

  found = _scipy.optimize.minimize_scalar(
    cross_entropy,
    bounds=(np.log(_LOWEST), np.log(_HIGHEST)),
    method='bounded',
    options={'xatol': _TOLERANCE},
  )
  return float(np.exp(found.x))


def temperatures_of(logits: np.ndarray, labels: np.ndarray, fitted: bool) -> tuple[float, ...]:
  """Returns a temperature per precision: fitted to the examples, or 1.

  Args:
    logits: [precisions, examples, classes].
    labels: int [examples].
    fitted: whether to fit them.
  """
  if not fitted:
    return (1.0,) * len(logits)
  return tuple(fit_temperature(each, labels) for each in logits)


def given_or_ones(temperatures: Sequence[float] | None, count: int) -> Sequence[float]:
  """Returns the temperatures that were given, or 1 for each of `count` precisions."""
  return (1.0,) * count if temperatures is None else temperatures
