"""A run of several processes: joining them, what one does for all, stopping at one step.

But for `join`, nothing here does anything more in a run of one process than it says.
"""

from collections.abc import Callable, Mapping
import json
import signal
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils
import numpy as np

from dpoq_jax.runtime import signals

T = TypeVar('T')

# A process that is not heard of for so long is lost, and the others end, in seconds.
_HEARTBEAT = 30
# One that ends waits for the others so long, and they for it: process 0 writes last. Until then
# what failed in one of them alone is not noticed.
_SHUTDOWN = 30


class OtherProcessError(ValueError):
  """Something failed in another process, which says what."""


def join(
  coordinator: str | None = None, count: int | None = None, index: int | None = None
) -> None:
  """Makes this process one of a run; before anything else is asked of JAX.

  When one of them is lost the others end with an error within a minute.

  Args:
    coordinator: HOST:PORT, where process 0 listens; None lets JAX find all three (SLURM, Open MPI,
      Cloud TPU, Kubernetes).
    count: of processes.
    index: of this one, from 0.

  Raises:
    ValueError: if they cannot be found, or contradict one another.
    RuntimeError: if the others cannot be reached.
  """
  jax.distributed.initialize(
    coordinator,
    count,
    index,
    # Where all is said, SLURM's variables would still narrow down which devices are seen.
    cluster_detection_method='deactivate' if coordinator else None,
    heartbeat_timeout_seconds=_HEARTBEAT,
    shutdown_timeout_seconds=_SHUTDOWN,
  )


def are_several() -> bool:
  """Whether there is more than one."""
  return jax.process_count() > 1


def is_first() -> bool:
  """Whether this process is the one that writes and prints for all."""
  return jax.process_index() == 0


def by_first(action: Callable[[], T]) -> T | None:
  """Runs `action` in process 0 while the others wait; gives its result there, None elsewhere.

  Raises:
    Exception: what it raises, in process 0.
    OtherProcessError: in the others, if it raised there.
  """
  return in_each(lambda: action() if is_first() else None)


def in_each(action: Callable[[], T]) -> T:
  """Runs `action` in every process; where it raises in one, no other goes on.

  Raises:
    Exception: what it raises, where it did.
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
  """Whether something is so in every process."""
  if jax.process_count() == 1:
    return condition
  return bool(multihost_utils.process_allgather(np.bool_(condition)).all())


def gathered(values: Mapping[str, Any]) -> list[dict[str, Any]]:
  """JSON objects of all processes, in their order."""
  if jax.process_count() == 1:
    return [dict(values)]
  text = np.frombuffer(json.dumps(values).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.int32(len(text)))
  padded = np.pad(text, (0, int(sizes.max()) - len(text)))
  rows = multihost_utils.process_allgather(padded)
  return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def stops_after(dispatch: int, request: signals.StopRequest) -> bool:
  """Whether the run is to stop after this dispatch of steps: all processes say the same of it.

  To be asked after every one. A signal to any of the processes stops them all, a dispatch or two
  later, since those that are ahead must not have passed it by then.

  Args:
    dispatch: its number, from 1 up without a gap.
    request: of this process; of all of them, afterwards.
  """
  if jax.process_count() == 1:
    return bool(request)
  if not multihost_utils.reached_preemption_sync_point(dispatch):
    return False
  request.signal = request.signal or signal.SIGTERM
  return True
