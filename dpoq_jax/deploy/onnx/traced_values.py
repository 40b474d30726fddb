"""Describes values of a traced model that are not results of steps, or not yet."""

from typing import NamedTuple

import numpy as np


class Pixels(NamedTuple):
  """Describes `(pixel - offset) * factor` before the first layer has taken it."""

  factor: float = 1.0
  offset: float = 0.0


class Sum(NamedTuple):
  """Describes the sum of a step's result over height and width, a mean not yet divided."""

  step: int


class Codes(NamedTuple):
  """Describes codes of an activation, whose values are the result of a step.

  Attributes:
    step: the step.
    scale: the scale that makes them values.
  """

  step: int
  scale: 'PactScale'


class PactScale(NamedTuple):
  """Describes the scale of the codes of a PACT, the step of this number."""

  pact: int


Value = int | np.ndarray | Pixels | Sum | Codes | PactScale
"""A value of the traced program: a step's number, an array that is the same for all images, or what
is not a step yet."""
