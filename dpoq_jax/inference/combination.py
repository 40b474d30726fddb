"""What an exit predicts from: the combination of the precisions that were run."""

from collections.abc import Sequence

import numpy as np

from dpoq_jax.inference import temperature as temperature_lib

COMBINATIONS = ('mean', 'last', 'weighted')
"""Plain ensemble of what was run (the paper's), last precision alone, mean with fitted weights."""


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
      temperature_lib.probabilities(each, temperature)[np.arange(len(labels)), labels]
      for each, temperature in zip(
        logits, temperature_lib.given_or_ones(temperatures, len(logits)), strict=True
      )
    ]
  )
  return tuple(_mixture(likelihood[: k + 1]) for k in range(len(logits)))


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
