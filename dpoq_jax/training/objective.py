"""Computes the joint loss (eq. 5), and scales its gradients towards lower paths (eq. 6)."""

from collections.abc import Sequence
from typing import assert_never

import jax
import jax.numpy as jnp
import optax

from dpoq_jax import config as config_lib
from dpoq_jax.network.trainable import GradientScale, whole_gradient


def bit_ratio(lower: int, higher: int) -> float:
  """Returns lambda(j, k) = b_j / b_k: the scaled gradients of the paper."""
  return lower / higher


def no_gradient(lower: int, higher: int) -> float:
  """Returns lambda(j, k) = 0: every path is trained by its own loss alone."""
  del lower, higher
  return 0.0


def gradient_scale(mode: config_lib.GradientMode) -> GradientScale:
  """Returns lambda(j, k) of the gradient mode that a config names."""
  match mode:
    case 'scaled':
      return bit_ratio
    case 'joint':
      return whole_gradient
    case 'separate':
      return no_gradient
    case _:
      assert_never(mode)


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
  """Returns the mean cross-entropy of each precision.

  Args:
    logits: [precisions, batch, classes].
    labels: int [batch].
    label_smoothing: share of the target that is spread over all classes, in [0, 1).

  Returns:
    [precisions], in nats.
  """
  targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)
  return jnp.mean(optax.softmax_cross_entropy(logits, targets[None]), axis=-1)


def joint_loss(losses: jax.Array, weights: Sequence[float] = ()) -> jax.Array:
  """Returns `sum_k alpha_k L_k` (eq. 5); without weights every alpha_k is 1.

  Args:
    losses: [precisions].
    weights: alpha_k, one for each precision, or empty.

  Raises:
    ValueError: if there are weights, but not one for each precision.
  """
  if not weights:
    return jnp.sum(losses)
  if len(weights) != len(losses):
    raise ValueError(f'{len(weights)} loss weights given for {len(losses)} precisions.')
  return jnp.sum(losses * jnp.asarray(weights, losses.dtype))
