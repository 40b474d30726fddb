"""Builds the optimizer: SGD as in section 4.2 of the paper, with warm-up and a cosine schedule."""

import jax
import optax

from dpoq_jax import config as config_lib


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
    decay = optax.piecewise_constant_schedule(
      config.learning_rate, dict.fromkeys(drops, config.decay_factor)
    )
  if not warmup:
    return decay
  rise = optax.linear_schedule(0.0, config.learning_rate, warmup)
  return optax.join_schedules([rise, decay], [warmup])


def sgd(
  config: config_lib.Optimizer, learning_rate: optax.ScalarOrSchedule
) -> optax.GradientTransformation:
  """Returns SGD with momentum and L2 decay; PACT clips have a rate and a decay of their own.

  Args:
    config: momentum, decays, and the factor on the learning rate of the clips.
    learning_rate: learning rate, or the schedule that `learning_rate_schedule` returns.
  """
  clip_decay = config.clip_weight_decay
  return optax.chain(
    optax.add_decayed_weights(config.weight_decay, mask=_is_not_clip),
    optax.add_decayed_weights(
      config.weight_decay if clip_decay is None else clip_decay, mask=_is_clip
    ),
    optax.trace(config.momentum),
    optax.masked(optax.scale(config.clip_learning_rate), _is_clip),
    optax.scale_by_learning_rate(learning_rate),
  )


def _is_clip(params: optax.Params) -> optax.Params:
  """Tells of each parameter whether it is the clip of a PACT activation."""
  return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == 'clip', params)


def _is_not_clip(params: optax.Params) -> optax.Params:
  """Tells of each parameter whether it is anything but a clip."""
  return jax.tree.map(lambda is_clip: not is_clip, _is_clip(params))
