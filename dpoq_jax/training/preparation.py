"""Prepares a fresh run: does all that may fail before the run has a directory of its own."""

import dataclasses
import math
import time
from typing import Any

import jax

from dpoq_jax import config as config_lib
from dpoq_jax.network import costs
from dpoq_jax.runtime import memory
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
  """Makes the state that a run begins with, and compiles its step.

  Raises:
    FileNotFoundError, ConfigError: if it cannot start from the other run that its config names, or
      does not fit into the memory of a device.
    CheckpointError: if that run has no checkpoint that can be read.
  """
  state = experiment.abstract_state()
  # At least these are held at once; far more than there is can end the process without a word.
  _check_memory(experiment, _bytes(state) + _bytes(state.params))
  try:
    state, fixed = warm_start.initial_state(experiment)
    started = time.perf_counter()
    take_steps = steps_per_dispatch.compile_steps(experiment, state, fixed=fixed)
    seconds = time.perf_counter() - started
  except (jax.errors.JaxRuntimeError, MemoryError) as error:
    reason = str(error).strip().partition('\n')[0]
    raise config_lib.ConfigError(
      f'the training step cannot be made ({reason[:200]}): lower config.data.batch_size or '
      'config.model.width.'
    ) from error
  _check_memory(experiment, costs.peak_memory(take_steps.program))
  return Prepared(state, fixed, take_steps, seconds)


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
