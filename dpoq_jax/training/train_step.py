"""Defines the state of a run and the training step that advances it."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, cast

import flax.struct
import jax
import jax.numpy as jnp
import optax

from dpoq_jax import config as config_lib
from dpoq_jax.core.names import path_name, statistics_collection
from dpoq_jax.data import augment
from dpoq_jax.network.companions import Companions
from dpoq_jax.network.gradient_scale import scale_of_mode
from dpoq_jax.network.trainable import TrainableNetwork
from dpoq_jax.training import objective
from dpoq_jax.training.optimizer import with_step

Batch = Mapping[str, jax.Array]
"""`image` uint8 [batch, height, width, channels] and `label` int32 [batch]."""


@flax.struct.dataclass
class MetricSums:
  """Holds sums over the steps since the last row of metrics.

  They are part of the state, so that a resumed run writes the same rows.

  Attributes:
    loss: cross-entropy summed over steps, [precisions].
    correct: right answers summed over examples, [precisions].
    steps: steps summed over; skipped ones do not count.
  """

  loss: jax.Array
  correct: jax.Array
  steps: jax.Array

  @classmethod
  def zeros(cls, precisions: int) -> 'MetricSums':
    """Returns the sums over no steps."""
    return cls(jnp.zeros(precisions), jnp.zeros(precisions), jnp.zeros((), jnp.int32))


@flax.struct.dataclass
class TrainState:
  """Holds all arrays of a run that a checkpoint keeps.

  Attributes:
    step: steps taken, skipped ones included, int32.
    params: parameters, `{path_B: ...}`.
    collections: running statistics, `{psbn_B: ...}`.
    opt_state: state of the optimizer.
    skipped: steps whose loss, gradient or update was not finite, int32.
    metrics: sums since the last row of metrics.
  """

  step: jax.Array
  params: Any
  collections: Any
  opt_state: optax.OptState
  skipped: jax.Array
  metrics: MetricSums

  @property
  def variables(self) -> dict[str, Any]:
    """Returns parameters and statistics as the methods of a network take them."""
    return {'params': self.params, **self.collections}


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, jax.Array]]
"""Returns the next state, and the losses of the step, [precisions]."""


def create_state(
  network: TrainableNetwork,
  optimizer: optax.GradientTransformation,
  key: jax.Array,
  images: jax.Array,
) -> TrainState:
  """Returns the state at step 0, with fresh parameters.

  Args:
    network: network to train.
    optimizer: optimizer of its parameters.
    key: key that the parameters are drawn with.
    images: images of the shape to train on, uint8 [batch, height, width, channels].
  """
  collections = network.init(key, images)
  params = collections.pop('params')
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    collections=collections,
    opt_state=optimizer.init(params),
    skipped=jnp.zeros((), jnp.int32),
    metrics=MetricSums.zeros(len(network.bits)),
  )


def make_train_step(
  network: TrainableNetwork,
  optimizer: optax.GradientTransformation,
  config: config_lib.Config,
  fixed: int = 0,
  groups: int = 1,
  steps_per_epoch: int = 1,
  padding: int = 0,
) -> TrainStep:
  """Returns the training step: augmentation, joint loss, one backward pass, update.

  A step whose loss, gradient or update is not finite changes neither parameters nor velocities nor
  running statistics; it is counted in `skipped`. Schedules go on: they follow the step of the run.

  Args:
    network: network to train.
    optimizer: optimizer of all paths at once.
    config: config of the run, for its seed, flips and objective.
    fixed: number of the lowest paths whose parameters and statistics stay as they are.
    groups: number of contiguous parts of the batch, each normalised by statistics of its own; the
      running statistics follow the mean of theirs.
    steps_per_epoch: number of steps in which the config counts its epochs.
    padding: pixels of padding for random crops.

  Returns:
    A pure function of (state, batch), to be jitted by the caller.
  """
  settings, precisions = config.objective, len(network.bits)
  gradient_scale = scale_of_mode(settings.mode, settings.gradient_exponent)
  companions = network.pairs if isinstance(network, Companions) else []
  companions = [index for index, _ in companions if index >= fixed]
  companion_weight = settings.companion_weight
  if settings.draw_companion and companions:
    # The one that is drawn stands for all of them.
    companion_weight *= len(companions)
    companions = companions[:1]
  teachers = objective.teachers(settings, precisions, companions)
  teaching_from = round(settings.teacher_start * steps_per_epoch)
  weights = settings.loss_weights
  if companions:
    weights = (*(weights or (1.0,) * precisions), *(companion_weight,) * len(companions))
  fixed_paths = [path_name(precision) for precision in network.bits[:fixed]]
  fixed_statistics = list(map(statistics_collection, network.bits[:fixed]))

  def forward(
    params: Any, collections: Any, images: jax.Array, key: jax.Array
  ) -> tuple[jax.Array, Any]:
    return network.apply_and_update(
      {'params': params, **collections},
      images,
      gradient_scale=gradient_scale,
      fixed=fixed,
      key=key,
    )

  def forward_in_groups(
    params: Any, collections: Any, images: jax.Array, key: jax.Array
  ) -> tuple[jax.Array, Any]:
    parts = images.reshape(groups, -1, *images.shape[1:])
    in_axes = (None, None, 0, None)
    logits, found = jax.vmap(forward, in_axes)(params, collections, parts, key)
    # From [groups, rows, batch / groups, classes] to [rows, batch, classes].
    logits = jnp.moveaxis(logits, 0, 1).reshape(logits.shape[1], len(images), -1)
    means = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), found)
    return logits, {**means, **{name: collections[name] for name in fixed_statistics}}

  def loss_of(
    params: Any, state: TrainState, batch: Batch, images: jax.Array, key: jax.Array
  ) -> tuple[jax.Array, tuple[Any, jax.Array, jax.Array]]:
    run = forward if groups == 1 else forward_in_groups
    logits, collections = run(params, state.collections, images, key)
    share = jnp.where(state.step >= teaching_from, settings.distillation, 0.0)
    losses = objective.cross_entropy(
      logits, batch['label'], settings.label_smoothing, teachers, share
    )
    loss = objective.joint_loss(losses, weights)
    correct = jnp.sum(jnp.argmax(logits[:precisions], -1) == batch['label'][None], axis=-1)
    return loss, (collections, losses[:precisions], correct.astype(losses.dtype))

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
    # The key follows from seed and step, so that checkpoints need no state of a generator.
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    images = augment.pad_crop_flip(key, batch['image'], padding=padding, flip=config.data.flip)
    # Not 0 or 1: those give the two keys that the augmentation splits off.
    draw_key = jax.random.fold_in(key, 2)
    gradients, (collections, losses, correct) = jax.grad(loss_of, has_aux=True)(
      state.params, state, batch, images, draw_key
    )
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    # The updates as well, since a finite gradient can make the velocity overflow.
    sizes = (jnp.sum(losses), optax.tree.norm(gradients), optax.tree.norm(updates))
    finite = jnp.all(jnp.isfinite(jnp.stack(sizes)))
    # Put back, since weight decay and velocity move also what has no gradient.
    kept_params = {name: state.params[name] for name in fixed_paths}
    advanced = dataclasses.replace(
      state,
      params={**cast(Any, optax.apply_updates(state.params, updates)), **kept_params},
      collections=collections,
      opt_state=opt_state,
      metrics=MetricSums(
        loss=state.metrics.loss + losses,
        correct=state.metrics.correct + correct,
        steps=state.metrics.steps + 1,
      ),
    )
    kept = dataclasses.replace(
      state,
      opt_state=with_step(state.opt_state, state.step + 1),
      skipped=state.skipped + 1,
    )
    chosen = jax.tree.map(lambda new, old: jnp.where(finite, new, old), advanced, kept)
    return dataclasses.replace(chosen, step=state.step + 1), losses

  return train_step
