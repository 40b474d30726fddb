"""How training steps get to the devices: one by one with their batch, or several at once.

A step of a small network on a fast device is shorter than what the host takes to start it. Where
the whole training set fits on the devices they hold it, the host sends only which examples are
next, for all steps up to where the run has something else to do, and these run without it.
"""

from collections.abc import Callable, Generator, Mapping
import contextlib
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpoq_jax.runtime import compiler
from dpoq_jax.training import experiment
from dpoq_jax.training import train_step as state_lib

# A function of (state, held, batch), what is held, and the shapes of a batch.
_Program = tuple[Callable[..., tuple[state_lib.TrainState, jax.Array]], state_lib.Batch, Any]


@dataclasses.dataclass(frozen=True)
class Dispatcher:
  """The compiled training step with what it reads; made by `compile_steps`.

  Attributes:
    setup: what is trained.
    program: compiled: (state, held, batch) to the state after the steps of `batch`, and the losses
      of the last of them, [precisions]. It gives up the state, to write where that is.
    held: what the devices hold throughout: the training set, or nothing.
  """

  setup: experiment.Experiment
  program: jax.stages.Compiled
  held: state_lib.Batch

  def __call__(
    self, state: state_lib.TrainState, batch: Any
  ) -> tuple[state_lib.TrainState, jax.Array]:
    """Dispatches the steps of `batch`, without waiting for them.

    Nothing else may travel to the devices with them: a transfer would wait for what runs there.
    """
    with jax.transfer_guard_host_to_device('disallow'):
      return self.program(state, self.held, batch)

  def batches(self, start: int) -> Generator[tuple[int, Any], None, None]:
    """Yields how many steps and what to give for them, from step `start` to the end of the run."""
    setup, order = self.setup, self.setup.order
    if self.held:
      order.check_start(start)
      for steps in dispatches(setup, start):
        # The program takes as many rows as it ever may.
        shares = np.zeros((setup.steps_per_dispatch, order.share), np.int32)
        shares[: len(steps)] = [order.examples(step) for step in steps]
        indices = jax.make_array_from_process_local_data(setup.batches_sharding, shares)
        yield len(steps), (indices, setup.on_each_device(np.int32(len(steps))))
      return
    with contextlib.closing(setup.train_set.training_batches(order, start)) as found:
      for batch in found:
        yield 1, setup.on_devices({name: batch[name] for name in ('image', 'label')})


def compile_steps(
  setup: experiment.Experiment,
  state: state_lib.TrainState,
  *,
  fixed: int = 0,
  options: Mapping[str, Any] | None = None,
) -> Dispatcher:
  """Compiles the training step ahead of time: once, and outside of the time that is measured.

  Args:
    setup: what is trained.
    state: at its start, for shapes.
    fixed: see `state.make_train_step`.
    options: of the compiler, beside those of `compiler.options`.
  """
  step = state_lib.make_train_step(
    setup.network, setup.optimizer, setup.config, fixed, setup.statistics_groups
  )
  program = _singly if setup.steps_per_dispatch == 1 else _at_once
  advance, held, batch = program(setup, step)
  jitted = jax.jit(
    advance,
    donate_argnums=0,
    out_shardings=setup.replicated,
    compiler_options={**compiler.options(setup.platform), **(options or {})},
  )
  return Dispatcher(setup, jitted.lower(state, held, batch).compile(), held)


def dispatches(setup: experiment.Experiment, start: int) -> Generator[range, None, None]:
  """The steps of each dispatch: `setup.steps_per_dispatch`, or fewer.

  None goes past a step after which the run may have something else to do: a row of metrics, a
  checkpoint, an evaluation.
  """
  config, epoch = setup.config, setup.steps_per_epoch
  periods = (config.log_every, config.checkpoint_every or epoch, epoch)
  while start < setup.total_steps:
    pause = min((start // period + 1) * period for period in periods)
    steps = range(start, min(pause, start + setup.steps_per_dispatch))
    yield steps
    start = steps.stop


def _singly(setup: experiment.Experiment, step: state_lib.TrainStep) -> _Program:
  """One step on a batch that the host sends."""

  def advance(state, held, batch):
    del held
    return step(state, batch)

  size, images = setup.config.data.batch_size, setup.train_set.image_shape
  batch = {
    name: jax.ShapeDtypeStruct((size, *shape), dtype, sharding=setup.batch_sharding)
    for name, shape, dtype in (('image', images, np.uint8), ('label', (), np.int32))
  }
  return advance, {}, batch


def _at_once(setup: experiment.Experiment, step: state_lib.TrainStep) -> _Program:
  """Several steps on examples that the devices hold, of which the host says which.

  Their number is an argument, so that one program serves whatever the run does in between.
  """

  def advance(state, held, batch):
    indices, count = batch

    def one(number, carry):
      state, _ = carry
      chosen = {name: array[indices[number]] for name, array in held.items()}
      return step(state, jax.lax.with_sharding_constraint(chosen, setup.batch_sharding))

    return jax.lax.fori_loop(0, count, one, (state, jnp.zeros(len(setup.network.bits))))

  train_set: Any = setup.train_set
  held = setup.on_each_device({'image': train_set.images, 'label': train_set.labels})
  shape = (setup.steps_per_dispatch, setup.config.data.batch_size)
  batch = (
    jax.ShapeDtypeStruct(shape, jnp.int32, sharding=setup.batches_sharding),
    jax.ShapeDtypeStruct((), jnp.int32, sharding=setup.replicated),
  )
  return advance, held, batch
