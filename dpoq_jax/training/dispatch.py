"""How training steps get to the devices: one by one with their batch, or several at once.

A step of a small network on a fast device is shorter than what the host takes to start it. Where
the whole training set fits on the devices they hold it, the host sends only which examples are
next, for several steps, and these run without it.
"""

from collections.abc import Callable, Generator, Mapping
import contextlib
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpoq_jax import compiler
from dpoq_jax.training import experiment
from dpoq_jax.training import state as state_lib

# A function of (state, held, batch), what is held, and the shape of a batch.
_Program = tuple[Callable[..., tuple[state_lib.TrainState, jax.Array]], state_lib.Batch, Any]


@dataclasses.dataclass(frozen=True)
class Dispatcher:
  """The compiled training step with what it reads; made by `compile_steps`.

  Attributes:
    setup: what is trained.
    program: compiled: (state, held, batch) to the state after `count` steps, and the losses of the
      last of them, [precisions]. It gives up the state, to write where that is.
    held: what the devices hold throughout: the training set, or nothing.
    count: steps of one dispatch.
  """

  setup: experiment.Experiment
  program: jax.stages.Compiled
  held: state_lib.Batch
  count: int

  def __call__(
    self, state: state_lib.TrainState, batch: Any
  ) -> tuple[state_lib.TrainState, jax.Array]:
    """Dispatches `count` steps, without waiting for them.

    Nothing else may travel to the devices with them: a transfer would wait for what runs there.
    """
    with jax.transfer_guard_host_to_device('disallow'):
      return self.program(state, self.held, batch)

  def batches(self, start: int) -> Generator[Any, None, None]:
    """What to give with each dispatch, on the devices, from step `start` to the end of the run."""
    if self.held:
      yield from self._indices(start)
      return
    found = self.setup.train_set.training_batches(self.setup.order, start)
    with contextlib.closing(found):
      for batch in found:
        yield self.setup.on_devices({name: batch[name] for name in ('image', 'label')})

  def _indices(self, start: int) -> Generator[Any, None, None]:
    """This process's share of the examples of `count` steps, int32 [steps, share]."""
    order = self.setup.order
    order.check_start(start)
    for first in range(start, order.steps, self.count):
      steps = range(first, first + self.count)
      shares = np.stack([order.examples(step) for step in steps]).astype(np.int32)
      yield jax.make_array_from_process_local_data(self.setup.batches_sharding, shares)


def compile_steps(
  setup: experiment.Experiment,
  state: state_lib.TrainState,
  *,
  start: int = 0,
  fixed: int = 0,
  options: Mapping[str, Any] | None = None,
) -> Dispatcher:
  """Compiles the training step ahead of time: once, and outside of the time that is measured.

  Args:
    setup: what is trained.
    state: at its start, for shapes.
    start: the step it starts at.
    fixed: see `state.make_train_step`.
    options: of the compiler, beside those of `compiler.options`.
  """
  step = state_lib.make_train_step(
    setup.onion, setup.optimizer, setup.config, fixed, setup.statistics_groups
  )
  count = steps_at_once(setup, start)
  advance, held, batch = _singly(setup, step) if count == 1 else _at_once(setup, step, count)
  jitted = jax.jit(
    advance,
    donate_argnums=0,
    out_shardings=setup.replicated,
    compiler_options={**compiler.options(setup.platform, setup.mesh.size), **(options or {})},
  )
  return Dispatcher(setup, jitted.lower(state, held, batch).compile(), held, count)


def steps_at_once(setup: experiment.Experiment, start: int) -> int:
  """How many steps a dispatch takes: at most `setup.steps_per_dispatch`.

  A divisor of all after which the run may have something else to do (rows, evaluations,
  checkpoints, its end), and of `start`, so that one program serves the whole run.
  """
  config, epoch = setup.config, setup.steps_per_epoch
  common = math.gcd(start, epoch, config.log_every, config.checkpoint_every or epoch)
  most = setup.steps_per_dispatch
  return max(n for n in range(1, min(most, common) + 1) if common % n == 0)


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


def _at_once(setup: experiment.Experiment, step: state_lib.TrainStep, count: int) -> _Program:
  """So many steps on examples that the devices hold, of which the host says which."""

  def advance(state, held, indices):
    def one(state, chosen):
      batch = {name: array[chosen] for name, array in held.items()}
      return step(state, jax.lax.with_sharding_constraint(batch, setup.batch_sharding))

    state, losses = jax.lax.scan(one, state, indices)
    return state, losses[-1]

  train_set: Any = setup.train_set
  held = setup.on_each_device({'image': train_set.images, 'label': train_set.labels})
  shape = (count, setup.config.data.batch_size)
  return advance, held, jax.ShapeDtypeStruct(shape, jnp.int32, sharding=setup.batches_sharding)
