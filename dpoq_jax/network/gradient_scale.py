"""Scales what the loss of a higher precision sends down to a lower path (eq. 6)."""

from collections.abc import Callable
import functools
from typing import assert_never

from dpoq_jax import config as config_lib

GradientScale = Callable[[int, int], float]
"""lambda(b_j, b_k): factor on what the loss of precision b_k sends down to path b_j (eq. 6)."""


def whole_gradient(lower: int, higher: int) -> float:
  """Returns lambda = 1: every loss reaches every path below it unscaled."""
  del lower, higher
  return 1.0


def bit_ratio(lower: int, higher: int, exponent: float = 1.0) -> float:
  """Returns lambda(j, k) = (b_j / b_k)**p: the scaled gradients of the paper, whose p is 1."""
  return (lower / higher) ** exponent


def no_gradient(lower: int, higher: int) -> float:
  """Returns lambda(j, k) = 0: every path is trained by its own loss alone."""
  del lower, higher
  return 0.0


def scale_of_mode(mode: config_lib.GradientMode, exponent: float = 1.0) -> GradientScale:
  """Returns lambda(j, k) of the gradient mode that a config names; `exponent` is p of `scaled`."""
  match mode:
    case 'scaled':
      return functools.partial(bit_ratio, exponent=exponent)
    case 'joint':
      return whole_gradient
    case 'separate':
      return no_gradient
    case _:
      assert_never(mode)
