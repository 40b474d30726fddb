"""Prepares a fresh run: does all that may fail before the run has a directory of its own."""

from collections.abc import Iterator
import contextlib
import dataclasses
import math
import time
from typing import Any

import jax

from dpoq_jax import config as config_lib
from dpoq_jax.network import costs
from dpoq_jax.runtime import memory, processes
from dpoq_jax.training import steps_per_dispatch, warm_start
from dpoq_jax.training.experiment import Experiment
from dpoq_jax.training.steps_per_dispatch import CompiledSteps
from dpoq_jax.training.train_step import TrainState


@dataclasses.dataclass(frozen=True)
class Prepared:
  """Holds what a fresh run begins with.

  Attributes:
    state: state at step 0.
    fixed: number of the lowest paths that are not trained.
    take_steps: the compiled training step.
    compile_seconds: seconds that compiling it took.
  """

  state: TrainState
  fixed: int
  take_steps: CompiledSteps
  compile_seconds: float


def prepare(experiment: Experiment) -> Prepared:
  """Makes the state that a run begins with, and compiles its step; every process calls it.

  Raises:
    FileNotFoundError, ConfigError: if it cannot start from the other run that its config names, or
      does not fit into the memory of a device; or if the processes see different copies of that.
    CheckpointError: if that run has no checkpoint that can be read.
    OtherProcessError: if another process raises one of these.
  """
  processes.in_each(lambda: _check(experiment))
  # Not within `in_each`: the processes read the checkpoint of another run together.
  with _as_config_error():
    state, fixed = warm_start.initial_state(experiment)
  return processes.in_each(lambda: _compile(experiment, state, fixed))


def _check(experiment: Experiment) -> None:
  """Checks what a process can tell by itself; see `prepare`."""
  state = experiment.abstract_state()
  # At least these are held at once; far more than there is can end the process without a word.
  _check_memory(experiment, _bytes(state) + _bytes(state.params))
  warm_start.check(experiment)


def _compile(experiment: Experiment, state: TrainState, fixed: int) -> Prepared:
  """Compiles the step of a run that begins with a state; see `prepare`."""
  with _as_config_error():
    started = time.perf_counter()
    take_steps = steps_per_dispatch.compile_steps(experiment, state, fixed=fixed)
    seconds = time.perf_counter() - started
  _check_memory(experiment, costs.peak_memory(take_steps.program))
  return Prepared(state, fixed, take_steps, seconds)


@contextlib.contextmanager
def _as_config_error() -> Iterator[None]:
  """Turns an error of the compiler, or of too little memory, into one for the user."""
  try:
    yield
  except (jax.errors.JaxRuntimeError, MemoryError) as error:
    reason = str(error).strip().partition('\n')[0]
    raise config_lib.ConfigError(
      f'the training step cannot be made ({reason[:200]}): lower config.data.batch_size or '
      'config.model.width.'
    ) from error


def _check_memory(experiment: Experiment, needed: int) -> None:
  """Checks that a device has the bytes that a step needs.

  Raises:
    ConfigError: if it has not.
  """
  available = memory.of_device(experiment.mesh.local_devices[0])
  if available is not None and needed > available:
    raise config_lib.ConfigError(
      f'a training step takes at least {needed / 1e9:,.1f} GB of memory, a device has '
      f'{available / 1e9:,.1f} GB: lower config.data.batch_size or config.model.width.'
    )


def _bytes(tree: Any) -> int:
  """Returns the bytes of the arrays of a tree."""
  return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
