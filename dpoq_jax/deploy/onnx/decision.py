"""Decides which images leave a cascade, and what their exit predicts; needs NumPy alone.

`cascade_graph` writes the same as operations of a graph. An export has a copy of this file beside
its `predict.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SLACK = 2.0**-40
"""By how much a confidence may miss a threshold.

The exponentials of runtimes differ in their last bits, and float64 has 52 of them: without slack, a
threshold that is the confidence of an image itself would keep the image in one runtime and let it
leave in another.
"""

LABEL, PROBABILITIES, PRECISION = 'label', 'probabilities', 'precision'
"""Names of the outputs of the cascade's graph."""

TEMPERATURES, WEIGHTS, THRESHOLDS, MAX_BITS = 'temperatures', 'weights', 'thresholds', 'max_bits'
"""Names of the inputs of the cascade's graph that have defaults."""


def inputs(point: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Returns the inputs of the cascade's graph that stand for an operating point.

  Args:
    point: the point, as manifests have it.

  Returns:
    `temperatures` and `thresholds`, float64 [precisions], and `weights`, float64 [precisions,
    precisions], of which row k holds the weights of exit k, and zeros.
  """
  bits = [str(precision) for precision in point['bits']]
  weights = np.zeros((len(bits), len(bits)))
  for k, precision in enumerate(bits):
    weights[k, : k + 1] = point['weights'][precision]
  by_precision = {
    name: np.array([point[name][precision] for precision in bits], np.float64)
    for name in (TEMPERATURES, THRESHOLDS)
  }
  return {**by_precision, WEIGHTS: weights}


def inputs_of_highest(count: int) -> dict[str, np.ndarray]:
  """Returns the same where all images run all of `count` paths, and the last predicts alone."""
  never = 2.0
  return {
    TEMPERATURES: np.ones(count),
    THRESHOLDS: np.full(count, never),
    WEIGHTS: np.eye(count),
  }


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
  """Returns the softmax of `logits / temperature`, float64 [..., classes].

  Logits that are not finite say nothing: all classes are then equally probable.
  """
  with np.errstate(invalid='ignore', over='ignore'):
    scaled = np.ascontiguousarray(logits, np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    result: np.ndarray = exponentials / exponentials.sum(axis=-1, keepdims=True)
  result[~np.isfinite(result).all(axis=-1)] = 1 / result.shape[-1]
  return result


def leaving(own: np.ndarray, threshold: float) -> np.ndarray:
  """Returns which images leave, bool [...].

  Args:
    own: probabilities [..., classes] of the precision alone.
    threshold: lowest confidence of an image that leaves; above 1 none does.
  """
  result: np.ndarray = np.minimum(own.max(axis=-1) + SLACK, 1) >= threshold
  return result


def combined(run: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
  """Returns the weighted mean of the probabilities of several precisions.

  Args:
    run: [images, classes] of each precision that was run, from the lowest up.
    weights: weight of each of them.
  """
  total: Any = sum(weight * each for weight, each in zip(weights, run, strict=True))
  return total / sum(weights)
