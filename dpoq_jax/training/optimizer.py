"""Builds the optimizer: SGD as in section 4.2 of the paper, with warm-up and a cosine schedule."""

from collections import Counter
from collections.abc import Mapping, Set
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dpoq_jax import config as config_lib
from dpoq_jax.network.from_config import Ring
from dpoq_jax.training import transition_rate

# Kinds of parameters that may be trained differently, by the last part of their names.
_CLIP, _LATENT, _OTHER = 'clip', 'latent', 'other'


def learning_rate_schedule(
  config: config_lib.Optimizer, *, epochs: int, steps_per_epoch: int
) -> optax.Schedule:
  """Returns the learning rate as a function of the step.

  Args:
    config: peak, schedule and warm-up.
    epochs: epochs of the whole run.
    steps_per_epoch: steps of one epoch.
  """
  warmup = round(config.warmup_epochs * steps_per_epoch)
  if config.schedule == 'cosine':
    decay = optax.cosine_decay_schedule(
      config.learning_rate, max(epochs * steps_per_epoch - warmup, 1)
    )
  else:
    # Counted from the end of the warm-up, where `join_schedules` starts to count anew.
    drops = [round(epoch * steps_per_epoch) - warmup for epoch in config.decay_epochs]
    # In epochs of few steps several may be at one.
    factors = {drop: config.decay_factor**count for drop, count in Counter(drops).items()}
    decay = optax.piecewise_constant_schedule(config.learning_rate, factors)
  if not warmup:
    return decay

  def rise(step: Any) -> Any:
    # The last step of the warm-up is the first at the peak; at a rate of 0 none would do anything.
    return config.learning_rate * (step + 1) / warmup

  return optax.join_schedules([rise, decay], [warmup])


def sgd(
  config: config_lib.Optimizer,
  learning_rate: optax.ScalarOrSchedule,
  rings: Mapping[str, Ring] | None = None,
) -> optax.GradientTransformation:
  """Returns SGD with momentum and L2 decay; PACT clips have a rate and a decay of their own.

  Args:
    config: momentum, decays, the factor on the learning rate of the clips, and the share of weights
      that are to change their code in a step, if that is what sets the rate of the latents.
    learning_rate: learning rate, or the schedule that `learning_rate_schedule` returns.
    rings: rings by the name of their path, needed only for that share; see `transition_rate`.

  Raises:
    ValueError: if that share is more than the widest ring can have; see `check_target`.
  """
  decays = {_OTHER: config.weight_decay}
  for kind, decay in ((_CLIP, config.clip_weight_decay), (_LATENT, config.latent_weight_decay)):
    if kind == _CLIP or decay is not None:
      decays[kind] = config.weight_decay if decay is None else decay
  descend = optax.scale_by_learning_rate(learning_rate)
  if config.transition_rate:
    transition_rate.check_target(config.transition_rate, rings or {})

    def target(step: Any) -> jax.Array:
      rate = learning_rate(step) if callable(learning_rate) else learning_rate
      return jnp.asarray(config.transition_rate * rate / config.learning_rate)

    latents = transition_rate.scale_by_transition_rate(target, rings or {}, config.learning_rate)
    descend = optax.partition(
      {_LATENT: latents, _OTHER: descend}, functools.partial(_kinds, kinds={_LATENT})
    )
  return optax.chain(
    *(
      optax.add_decayed_weights(decay, mask=functools.partial(_is, kind=kind, kinds=set(decays)))
      for kind, decay in decays.items()
    ),
    optax.trace(config.momentum),
    optax.masked(
      optax.scale(config.clip_learning_rate), functools.partial(_is, kind=_CLIP, kinds={_CLIP})
    ),
    descend,
  )


def with_step(state: Any, step: jax.Array) -> Any:
  """Returns the state of an optimizer whose schedules are at a step of the run.

  Optax counts the updates that were made, of which there are fewer than steps once one was skipped:
  rates would drop too late, and those in the log would be others.

  Args:
    state: state of what `sgd` returns.
    step: steps taken, int32.
  """

  def moved(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
    name = getattr(path[-1], 'name', None)
    return step.astype(leaf.dtype) if name in ('count', 'step') else leaf

  return jax.tree_util.tree_map_with_path(moved, state)


def _kinds(params: optax.Params, kinds: Set[str]) -> optax.Params:
  """Names the kind of each parameter: the last part of its name if that is in `kinds`, or other."""

  def kind(path: tuple[Any, ...], _: Any) -> str:
    return path[-1].key if path[-1].key in kinds else _OTHER

  return jax.tree_util.tree_map_with_path(kind, params)


def _is(params: optax.Params, kind: str, kinds: Set[str]) -> optax.Params:
  """Tells of each parameter whether it is of a kind; see `_kinds`."""
  return jax.tree.map(lambda found: found == kind, _kinds(params, kinds))
