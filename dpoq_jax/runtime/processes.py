"""Joins several processes to one run, and lets them act as one.

In a run of one process every function but `join` does what it says for that process alone, and
waits for nothing.
"""

from collections.abc import Callable, Mapping, Sequence
import json
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils
import numpy as np

T = TypeVar('T')

# Seconds without a heartbeat after which a process counts as lost, and the others end.
_HEARTBEAT = 30
# Seconds that a process which ends waits for the others: process 0 writes last. Within them an
# error of one process alone is not yet noticed by the others.
_SHUTDOWN = 30


class OtherProcessError(ValueError):
  """Says that something failed in another process, whose own output says what."""


def join(
  coordinator: str | None = None, count: int | None = None, index: int | None = None
) -> None:
  """Joins this process to the others of its run; call it before anything else of JAX.

  When one process is lost the others end with an error within a minute.

  Args:
    coordinator: HOST:PORT, where process 0 listens; None lets JAX find all three (SLURM, Open MPI,
      Cloud TPU, Kubernetes).
    count: number of processes.
    index: number of this process, from 0.

  Raises:
    ValueError: if the three cannot be found, or contradict one another.
    RuntimeError: if the other processes cannot be reached.
  """
  jax.distributed.initialize(
    coordinator,
    count,
    index,
    # SLURM's variables would narrow down which devices are seen even where all three are given.
    cluster_detection_method='deactivate' if coordinator else None,
    heartbeat_timeout_seconds=_HEARTBEAT,
    shutdown_timeout_seconds=_SHUTDOWN,
  )


def are_several() -> bool:
  """Tells whether the run has more than one process."""
  return jax.process_count() > 1


def is_first() -> bool:
  """Tells whether this process is the one that writes and prints for all."""
  return jax.process_index() == 0


def by_first(action: Callable[[], T]) -> T | None:
  """Runs `action` in process 0 while the others wait.

  Returns:
    The result of `action` in process 0, None in the others.

  Raises:
    Exception: what `action` raises, in process 0.
    OtherProcessError: in the others, if it raised there.
  """
  return in_each(lambda: action() if is_first() else None)


def in_each(action: Callable[[], T]) -> T:
  """Runs `action` in every process; if it raises in one, none of the others goes on.

  Nothing in `action` may wait for other processes: one that has failed answers nobody any more.

  Raises:
    Exception: what `action` raises, in the process where it does.
    OtherProcessError: in the others.
  """
  if jax.process_count() == 1:
    return action()
  try:
    result = action()
  except Exception:
    multihost_utils.process_allgather(np.bool_(True))
    raise
  if (failed := np.flatnonzero(multihost_utils.process_allgather(np.bool_(False)))).size:
    raise OtherProcessError(f'process {failed[0]} failed; its output says why.')
  return result


def in_all(condition: bool) -> bool:
  """Tells whether `condition` is true in every process."""
  if jax.process_count() == 1:
    return condition
  return bool(multihost_utils.process_allgather(np.bool_(condition)).all())


def gathered(values: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Returns the JSON objects that all processes give, in the order of their numbers."""
  if jax.process_count() == 1:
    return [dict(values)]
  text = np.frombuffer(json.dumps(values).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.int32(len(text)))
  padded = np.pad(text, (0, int(sizes.max()) - len(text)))
  texts = multihost_utils.process_allgather(padded)
  return [json.loads(each[:size].tobytes()) for each, size in zip(texts, sizes, strict=True)]


def global_mesh() -> jax.sharding.Mesh:
  """Returns all devices of all processes along one axis, `data`; those of a process adjoin."""
  return _mesh(sorted(jax.devices(), key=lambda device: (device.process_index, device.id)))


def local_mesh() -> jax.sharding.Mesh:
  """Returns all devices of this process along one axis, `data`."""
  return _mesh(jax.local_devices())


def _mesh(devices: Sequence[Any]) -> jax.sharding.Mesh:
  return jax.sharding.Mesh(np.array(devices), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
