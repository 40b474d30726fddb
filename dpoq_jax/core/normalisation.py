"""Batch normalisation whose backward pass reads each tensor as few times as it can.

Training is bound by memory: between two convolutions, what counts is how often a tensor of
[batch, height, width, channels] is read or written. So a normalised tensor is not multiplied out
but handed on as what it is made of, a tensor and two numbers per channel, and all precision shifts
of a path are one map. The sums over the batch that the gradients of its parameters need are then
the very sums that the gradient through the batch's statistics needs, of every path: no further pass
over a tensor is made for them. Autodiff of the plain form makes three.
"""

from collections.abc import Sequence
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

_ALL_BUT_CHANNELS = (0, 1, 2)


class Standardised(NamedTuple):
  """`(tensor - mean) * factor`, not multiplied out; `tensor` alone where there are no such two.

  Attributes:
    tensor: [batch, height, width, channels].
    mean: [channels], or None.
    factor: [channels], or None.
  """

  tensor: jax.Array
  mean: jax.Array | None = None
  factor: jax.Array | None = None

  @property
  def value(self) -> jax.Array:
    """[batch, height, width, channels], multiplied out."""
    if self.mean is None or self.factor is None:
      return self.tensor
    return (self.tensor - self.mean) * self.factor


@jax.custom_vjp
def moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Mean and biased variance of each channel.

  The backward rule takes no sums: that of the centred tensor, through which the variance depends on
  the mean, is 0.

  Args:
    x: [batch, height, width, channels].

  Returns:
    Two of [channels].
  """
  mean = jnp.mean(x, axis=_ALL_BUT_CHANNELS)
  return mean, jnp.mean(jnp.square(x - mean), axis=_ALL_BUT_CHANNELS)


def _moments_forward(x):
  mean, var = moments(x)
  return (mean, var), (x, mean)


def _moments_backward(residuals, cotangents):
  (x, mean), (to_mean, to_var) = residuals, cotangents
  count = math.prod(x.shape[:-1])
  slope = (2 / count) * to_var
  return (slope * x + (to_mean / count - slope * mean),)


moments.defvjp(_moments_forward, _moments_backward)


def merge(
  terms: Sequence[Standardised], weights: Sequence[jax.Array], bias: jax.Array
) -> jax.Array:
  """`sum_j weights_j terms_j + bias`, per channel: eq. 8.

  Args:
    terms: the path's own features first, then those of lower paths.
    weights: [channels] each.
    bias: [channels].

  Returns:
    [batch, height, width, channels].
  """
  if all(term.mean is None for term in terms):
    merged = weights[0] * terms[0].tensor
    for weight, term in zip(weights[1:], terms[1:], strict=True):
      merged += weight * term.tensor
    return merged + bias
  means, factors = [], []
  for term, weight in zip(terms, weights, strict=True):
    means.append(jnp.zeros_like(weight) if term.mean is None else term.mean)
    factors.append(weight if term.factor is None else weight * term.factor)
  return _affine(tuple(term.tensor for term in terms), tuple(means), tuple(factors), bias)


@jax.custom_vjp
def _affine(tensors, means, factors, bias):
  """`sum_j (tensors_j - means_j) * factors_j + bias`."""
  for mean, factor in zip(means, factors, strict=True):
    bias -= mean * factor
  merged = tensors[0] * factors[0]
  for tensor, factor in zip(tensors[1:], factors[1:], strict=True):
    merged += tensor * factor
  return merged + bias


def _affine_forward(tensors, means, factors, bias):
  return _affine(tensors, means, factors, bias), (tensors, means, factors)


def _affine_backward(residuals, cotangent):
  tensors, means, factors = residuals
  total = jnp.sum(cotangent, axis=_ALL_BUT_CHANNELS)
  return (
    tuple(cotangent * factor for factor in factors),
    tuple(-factor * total for factor in factors),
    tuple(
      jnp.sum(cotangent * tensor, axis=_ALL_BUT_CHANNELS) - mean * total
      for tensor, mean in zip(tensors, means, strict=True)
    ),
    total,
  )


_affine.defvjp(_affine_forward, _affine_backward)
