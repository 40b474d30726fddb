"""SGD as in the paper's section 4.2, with what practitioners add to it."""

import jax
import optax

from dpoq_jax import config as config_lib


def learning_rate_schedule(
  config: config_lib.Optimizer, *, epochs: int, steps_per_epoch: int
) -> optax.Schedule:
  """Learning rate as a function of the step.

  Args:
    config: peak, kind of decay, warm-up.
    epochs: of the whole run.
    steps_per_epoch: turns epochs into steps.
  """
  warmup = round(config.warmup_epochs * steps_per_epoch)
  if config.schedule == 'cosine':
    decay = optax.cosine_decay_schedule(
      config.learning_rate, max(epochs * steps_per_epoch - warmup, 1)
    )
  else:
    # Relative to the end of the warm-up, since `join_schedules` restarts the count there.
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
  """L2 decay, momentum, learning rate; PACT clips have a factor and a decay of their own.

  Args:
    config: rates and decays.
    learning_rate: what `learning_rate_schedule` returns.
  """
  clip_decay = config.clip_weight_decay
  return optax.chain(
    optax.add_decayed_weights(config.weight_decay, mask=_others),
    optax.add_decayed_weights(
      config.weight_decay if clip_decay is None else clip_decay, mask=_clips
    ),
    optax.trace(config.momentum),
    optax.masked(optax.scale(config.clip_learning_rate), _clips),
    optax.scale_by_learning_rate(learning_rate),
  )


def _clips(params: optax.Params) -> optax.Params:
  return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == 'clip', params)


def _others(params: optax.Params) -> optax.Params:
  return jax.tree.map(lambda is_clip: not is_clip, _clips(params))
