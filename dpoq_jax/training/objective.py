"""Computes the joint loss (eq. 5), of targets that a teacher within the network may share in.

Rows are what is trained on a batch: the precisions, from low to high, and after them companions
(`network.companions`), if there are any.
"""

from collections.abc import Sequence
from typing import assert_never

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpoq_jax import config as config_lib


def cross_entropy(
  logits: jax.Array,
  labels: jax.Array,
  label_smoothing: float = 0.0,
  teachers: Sequence[int | None] = (),
  share: jax.Array | float = 0.0,
) -> jax.Array:
  """Returns the mean cross-entropy of each row.

  Args:
    logits: [rows, batch, classes].
    labels: int [batch].
    label_smoothing: share of the target that is spread over all classes, in [0, 1).
    teachers: row that teaches each row, or None; empty if there is no teacher. No gradient reaches
      a teacher through what it teaches.
    share: share of the teacher's softmax in the target of those it teaches, in [0, 1].

  Returns:
    [rows], in nats.
  """
  targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)[None]
  if teachers:
    taught = np.array([teacher is not None for teacher in teachers])[:, None, None]
    rows = np.array([teacher or 0 for teacher in teachers])
    wanted = jax.lax.stop_gradient(jax.nn.softmax(logits))[rows]
    targets = jnp.where(taught, (1 - share) * targets + share * wanted, targets)
  return jnp.mean(optax.softmax_cross_entropy(logits, targets), axis=-1)


def teachers(
  objective: config_lib.Objective, precisions: int, companions: Sequence[int] = ()
) -> list[int | None]:
  """Returns the row that teaches each row, or None; empty if the objective has no teacher.

  Args:
    objective: of the config.
    precisions: number of precisions.
    companions: path of each companion, in their order.
  """
  if not objective.distillation:
    return []
  found: list[int | None] = [None] * (precisions + len(companions))
  match objective.teacher:
    case 'highest':
      found[: precisions - 1] = [precisions - 1] * (precisions - 1)
    case 'companion':
      # Of several the last, which is the widest.
      for row, path in enumerate(companions, start=precisions):
        found[path] = row
    case _:
      assert_never(objective.teacher)
  return found


def joint_loss(losses: jax.Array, weights: Sequence[float] = ()) -> jax.Array:
  """Returns `sum_k alpha_k L_k` (eq. 5) over all rows; without weights every alpha_k is 1.

  Args:
    losses: [rows].
    weights: alpha_k, one for each row, or empty.

  Raises:
    ValueError: if there are weights, but not one for each row.
  """
  if not weights:
    return jnp.sum(losses)
  if len(weights) != len(losses):
    raise ValueError(f'{len(weights)} loss weights given for {len(losses)} losses.')
  return jnp.sum(losses * jnp.asarray(weights, losses.dtype))
