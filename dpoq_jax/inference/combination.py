"""Combines the probabilities of all precisions that were run into what an exit predicts.

An exit predicts from the mean of the probabilities of precisions 1 to k, weighted by one weight for
each. A combination is a rule that gives every exit its weights.
"""

from collections.abc import Sequence
import typing
from typing import Literal

import numpy as np

from dpoq_jax.inference import temperature as temperature_lib

Combination = Literal['mean', 'last', 'weighted']
"""Plain mean of all that was run (the paper's), last precision alone, mean with fitted weights."""

COMBINATIONS: tuple[Combination, ...] = typing.get_args(Combination)

Weights = Sequence[Sequence[float]]
"""Weights of every exit: entry k holds the `k + 1` weights of exit k."""


def combined(run: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
  """Returns the weighted mean of the probabilities of the precisions that were run.

  Args:
    run: probabilities [..., classes] of each precision, from the lowest up.
    weights: one for each of them, not negative, some positive; they need not add up to 1.
  """
  total = weights[0] * run[0]
  for weight, probabilities in zip(weights[1:], run[1:], strict=True):
    total = total + weight * probabilities
  return total / sum(weights)


def plain_weights(combine: str, count: int) -> tuple[tuple[float, ...], ...]:
  """Returns the weights of every exit for the combination `mean` or `last`.

  Args:
    combine: name of the combination.
    count: number of precisions.

  Returns:
    `count` tuples; the one of index k holds the `k + 1` weights of exit k.

  Raises:
    ValueError: for another name.
  """
  if combine == 'mean':
    return tuple((1.0,) * (k + 1) for k in range(count))
  if combine == 'last':
    return tuple((0.0,) * k + (1.0,) for k in range(count))
  raise ValueError(f'combine={combine!r}: a combination is one of {", ".join(COMBINATIONS)}.')


def weights_of(
  combine: Combination, logits: np.ndarray, labels: np.ndarray, temperatures: Sequence[float]
) -> Weights:
  """Returns the weights of a combination, which for `weighted` are fitted to the examples.

  Args:
    combine: one of `COMBINATIONS`.
    logits: [precisions, examples, classes].
    labels: int [examples].
    temperatures: one per precision.

  Raises:
    ValueError: for a name that is no combination.
  """
  if combine == 'weighted':
    return fit_weights(logits, labels, temperatures)
  return plain_weights(combine, len(logits))


def fit_weights(
  logits: np.ndarray, labels: np.ndarray, temperatures: Sequence[float] | None = None
) -> tuple[tuple[float, ...], ...]:
  """Returns the weights under which the labels are most likely, fitted for each exit by itself.

  Mixture weights by expectation-maximisation. The likelihood is concave in the weights and rises
  with every iteration.

  Args:
    logits: [precisions, examples, classes].
    labels: int [examples].
    temperatures: one per precision; all 1 by default.

  Returns:
    One tuple per exit; the one of index k holds `k + 1` weights that add up to 1.
  """
  temperatures = temperature_lib.given_or_ones(temperatures, len(logits))
  likelihood = np.array(
    [
      temperature_lib.probabilities(each, temperature)[np.arange(len(labels)), labels]
      for each, temperature in zip(logits, temperatures, strict=True)
    ]
  )
  return tuple(_mixture_weights(likelihood[: k + 1]) for k in range(len(logits)))


def _mixture_weights(likelihood: np.ndarray) -> tuple[float, ...]:
  """Returns the weights [precisions] of a mixture whose parts have `likelihood`.

  Args:
    likelihood: probability of the label under each part, [precisions, examples].
  """
  weights = np.full(len(likelihood), 1 / len(likelihood))
  # A label that is impossible under every part says nothing about the weights. One so improbable
  # that floats have hardly digits for it would become that, multiplied by a weight.
  likelihood = likelihood[:, likelihood.max(axis=0) >= np.finfo(np.float64).tiny]
  for _ in range(1000 if likelihood.size else 0):
    joint = weights[:, None] * likelihood
    updated = (joint / joint.sum(axis=0)).mean(axis=1)
    moved = np.abs(updated - weights).max()
    weights = updated
    if moved < 1e-6:
      break
  return tuple(float(weight) for weight in weights / weights.sum())
