"""Computes the joint loss (eq. 5)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax


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
