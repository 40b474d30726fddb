"""Dispatches training steps to the devices: one by one with their batch, or several at once.

A step of a small network takes a fast device less time than the host needs to start it. Where the
training set is in memory, the devices can therefore hold it: the host then sends only the indices
of the next examples, for all steps until the run has something else to do, and the devices take
these steps without the host.
"""

from collections.abc import Callable, Generator, Mapping
import contextlib
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpoq_jax.runtime import compiler
from dpoq_jax.training.experiment import Experiment
from dpoq_jax.training.train_step import Batch, TrainState, TrainStep, make_train_step


class _Program(NamedTuple):
  """Describes a program that takes the steps of one dispatch, before it is compiled.

  Attributes:
    advance: function of (state, held, batch) that returns the next state and the losses.
    held: arrays that the devices hold throughout: the training set, or none.
    batch: shapes, dtypes and shardings of what the host sends with each dispatch.
  """

  advance: Callable[[TrainState, Batch, Any], tuple[TrainState, jax.Array]]
  held: Batch
  batch: Any


@dataclasses.dataclass(frozen=True)
class CompiledSteps:
  """Holds the compiled training step and the arrays that it reads; see `compile_steps`.

  Attributes:
    experiment: experiment whose steps are taken.
    program: compiled function of (state, held, batch) that returns the state after the steps of
      `batch` and the losses of the last of them, [precisions]. The state that it is given is
      donated, and cannot be used afterwards.
    held: arrays that the devices hold throughout: the training set, or none.
  """

  experiment: Experiment
  program: jax.stages.Compiled
  held: Batch

  def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, jax.Array]:
    """Dispatches the steps of `batch`, without waiting for them.

    Transfers from the host are forbidden meanwhile, since one would wait for what runs there.
    """
    with jax.transfer_guard_host_to_device('disallow'):
      return self.program(state, self.held, batch)

  def batches(self, start: int) -> Generator[tuple[int, Any], None, None]:
    """Yields, for each dispatch from step `start` on, its number of steps and its batch."""
    experiment, order = self.experiment, self.experiment.order
    if self.held:
      order.check_start(start)
      for steps in split_into_dispatches(experiment, start):
        # Always of the largest shape: the program reads only the indices of `steps`.
        shares = np.zeros((experiment.steps_per_dispatch, order.share), np.int32)
        shares[: len(steps)] = [order.examples(step) for step in steps]
        indices = jax.make_array_from_process_local_data(experiment.batches_sharding, shares)
        yield len(steps), (indices, experiment.on_each_device(np.int32(len(steps))))
      return
    with contextlib.closing(experiment.train_set.training_batches(order, start)) as found:
      for batch in found:
        yield 1, experiment.on_devices({name: batch[name] for name in ('image', 'label')})


def compile_steps(
  experiment: Experiment,
  state: TrainState,
  *,
  fixed: int = 0,
  options: Mapping[str, Any] | None = None,
) -> CompiledSteps:
  """Compiles the training step ahead of time, so that no step is timed with its compilation.

  Args:
    experiment: experiment to run.
    state: state of the run, for its shapes.
    fixed: number of the lowest paths that are not trained.
    options: options of the compiler, beside those of `compiler.options`.
  """
  step = make_train_step(
    experiment.network,
    experiment.optimizer,
    experiment.config,
    fixed=fixed,
    groups=experiment.statistics_groups,
    steps_per_epoch=experiment.steps_per_epoch,
    padding=experiment.padding,
  )
  make_program = _singly if experiment.steps_per_dispatch == 1 else _at_once
  program = make_program(experiment, step)
  jitted = jax.jit(
    program.advance,
    donate_argnums=0,
    out_shardings=experiment.replicated,
    compiler_options={**compiler.options(experiment.platform), **(options or {})},
  )
  compiled = jitted.lower(state, program.held, program.batch).compile()
  return CompiledSteps(experiment, compiled, program.held)


def split_into_dispatches(experiment: Experiment, start: int) -> Generator[range, None, None]:
  """Yields the steps of each dispatch, from step `start` on: `steps_per_dispatch` or fewer.

  A dispatch ends where the run may have something else to do: after a step with a row of metrics, a
  checkpoint or an evaluation.
  """
  config, epoch = experiment.config, experiment.steps_per_epoch
  periods = (config.log_every, config.checkpoint_every or epoch, epoch)
  while start < experiment.total_steps:
    pause = min((start // period + 1) * period for period in periods)
    steps = range(start, min(pause, start + experiment.steps_per_dispatch))
    yield steps
    start = steps.stop


def _singly(experiment: Experiment, step: TrainStep) -> _Program:
  """Returns the program of a single step, on a batch that the host sends."""

  def advance(state: TrainState, held: Batch, batch: Batch) -> tuple[TrainState, jax.Array]:
    del held
    return step(state, batch)

  size, images = experiment.config.data.batch_size, experiment.train_set.image_shape
  batch = {
    name: jax.ShapeDtypeStruct((size, *shape), dtype, sharding=experiment.batch_sharding)
    for name, shape, dtype in (('image', images, np.uint8), ('label', (), np.int32))
  }
  return _Program(advance, {}, batch)


def _at_once(experiment: Experiment, step: TrainStep) -> _Program:
  """Returns the program of several steps on examples that the devices hold.

  The host sends the indices of the examples, and the number of steps: that is an argument, so that
  one program serves dispatches of any length.
  """

  def advance(
    state: TrainState, held: Batch, batch: tuple[jax.Array, jax.Array]
  ) -> tuple[TrainState, jax.Array]:
    indices, count = batch

    def one(number: jax.Array, carry: tuple[TrainState, jax.Array]) -> tuple[TrainState, jax.Array]:
      state, _ = carry
      chosen = {name: array[indices[number]] for name, array in held.items()}
      return step(state, jax.lax.with_sharding_constraint(chosen, experiment.batch_sharding))

    return jax.lax.fori_loop(0, count, one, (state, jnp.zeros(len(experiment.network.bits))))

  train_set: Any = experiment.train_set
  held = experiment.on_each_device({'image': train_set.images, 'label': train_set.labels})
  shape = (experiment.steps_per_dispatch, experiment.config.data.batch_size)
  batch = (
    jax.ShapeDtypeStruct(shape, jnp.int32, sharding=experiment.batches_sharding),
    jax.ShapeDtypeStruct((), jnp.int32, sharding=experiment.replicated),
  )
  return _Program(advance, held, batch)
