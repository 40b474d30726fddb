"""Defines labelled examples of which a network's logits are known at every precision."""

import dataclasses

import numpy as np

from dpoq_jax.inference import combination, exits


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
  """Holds the logits of all precisions on labelled examples.

  Attributes:
    logits: [precisions, examples, classes].
    labels: int [examples].
    name: description of the examples, for people.
  """

  logits: np.ndarray
  labels: np.ndarray
  name: str

  def __len__(self) -> int:
    """Returns the number of examples."""
    return len(self.labels)

  def take(self, chosen: np.ndarray, name: str) -> 'Examples':
    """Returns the examples of these indices, in this order, under another name."""
    return Examples(self.logits[:, chosen], self.labels[chosen], name)


def alone(examples: Examples) -> np.ndarray:
  """Returns whether each precision alone predicts the label: bool [precisions, examples]."""
  weights = combination.plain_weights('last', len(examples.logits))
  return exits.evaluate(examples.logits, examples.labels, weights).correct
