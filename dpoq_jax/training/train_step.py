"""The state of a run and the step that advances it."""

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
from dpoq_jax.network.trainable import TrainableNetwork
from dpoq_jax.training import objective

Batch = Mapping[str, jax.Array]
"""`image` uint8 [batch, height, width, channels] and `label` int32 [batch]."""


@flax.struct.dataclass
class MetricSums:
  """Sums since the last row of metrics; part of the state, so that rows survive a resume exactly.

  Attributes:
    loss: cross-entropy summed over steps, [precisions].
    correct: right answers summed over examples, [precisions].
    steps: steps summed over, those skipped apart.
  """

  loss: jax.Array
  correct: jax.Array
  steps: jax.Array

  @classmethod
  def zeros(cls, precisions: int) -> 'MetricSums':
    """The sums of no steps at all."""
    return cls(jnp.zeros(precisions), jnp.zeros(precisions), jnp.zeros((), jnp.int32))


@flax.struct.dataclass
class TrainState:
  """Everything that a checkpoint holds.

  Attributes:
    step: steps taken, skipped ones included, int32.
    params: `{path_B: ...}`.
    collections: `{psbn_B: ...}`, the running statistics.
    opt_state: of the optimizer.
    skipped: steps whose loss, gradient or update was not finite, int32.
    metrics: see `MetricSums`.
  """

  step: jax.Array
  params: Any
  collections: Any
  opt_state: optax.OptState
  skipped: jax.Array
  metrics: MetricSums

  @property
  def variables(self) -> dict[str, Any]:
    """What `Onion.apply` and `Onion.freeze` take."""
    return {'params': self.params, **self.collections}


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, jax.Array]]
"""The next state, and the losses of the step, [precisions]."""


def create(
  network: TrainableNetwork,
  optimizer: optax.GradientTransformation,
  key: jax.Array,
  images: jax.Array,
) -> TrainState:
  """A fresh state.

  Args:
    network: the network.
    optimizer: whose state to start.
    key: seeds the parameters.
    images: uint8 [batch, height, width, channels], for their shape.
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
) -> TrainStep:
  """Builds the step: augmentation, joint loss, one backward pass, update.

  A step whose loss, gradient or update is not finite changes neither parameters nor optimizer state
  nor running statistics; it is counted in `skipped`.

  Args:
    network: the network.
    optimizer: its updates are applied to all paths at once.
    config: seed, augmentation, objective.
    fixed: so many of the lowest paths keep parameters and statistics as they are.
    groups: contiguous parts of the batch that are normalised by statistics of their own; running
      averages are of their mean.

  Returns:
    A pure function of (state, batch), to be jitted by the caller, which gives the next state and
    the losses of this step, [precisions].
  """
  gradient_scale = objective.gradient_scale(config.objective.mode)
  fixed_paths = [path_name(precision) for precision in network.bits[:fixed]]
  fixed_statistics = list(map(statistics_collection, network.bits[:fixed]))

  def forward(params, collections, images):
    return network.apply_and_update(
      {'params': params, **collections},
      images,
      gradient_scale=gradient_scale,
      fixed=fixed,
    )

  def forward_in_groups(params, collections, images):
    parts = images.reshape(groups, -1, *images.shape[1:])
    logits, found = jax.vmap(forward, in_axes=(None, None, 0))(params, collections, parts)
    # [groups, precisions, ...] to [precisions, batch, classes].
    logits = jnp.moveaxis(logits, 0, 1).reshape(len(network.bits), len(images), -1)
    means = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), found)
    return logits, {**means, **{name: collections[name] for name in fixed_statistics}}

  def loss_of(params, collections, batch, images):
    run = forward if groups == 1 else forward_in_groups
    logits, collections = run(params, collections, images)
    losses = objective.cross_entropy(logits, batch['label'], config.objective.label_smoothing)
    correct = jnp.sum(jnp.argmax(logits, -1) == batch['label'][None], axis=-1)
    loss = objective.joint_loss(losses, config.objective.loss_weights)
    return loss, (collections, losses, correct.astype(losses.dtype))

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
    # Folding the step in leaves no generator state to save.
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    images = augment.pad_crop_flip(
      key, batch['image'], padding=config.data.pad, flip=config.data.flip
    )
    gradients, (collections, losses, correct) = jax.grad(loss_of, has_aux=True)(
      state.params, state.collections, batch, images
    )
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    # The updates too: a finite gradient can overflow in the velocity.
    sizes = (jnp.sum(losses), optax.tree.norm(gradients), optax.tree.norm(updates))
    finite = jnp.all(jnp.isfinite(jnp.stack(sizes)))
    # Decay and velocity move what has no gradient, too.
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
    kept = dataclasses.replace(state, skipped=state.skipped + 1)
    chosen = jax.tree.map(lambda new, old: jnp.where(finite, new, old), advanced, kept)
    return dataclasses.replace(chosen, step=state.step + 1), losses

  return train_step
