"""Stops a run on request: notes the signal at once, for the loop to act on between steps."""

from collections.abc import Iterator
import contextlib
import os
import signal
import types


class StopRequest:
  """Holds whether the process was asked to stop.

  Attributes:
    signal: the signal that asked, or None.
  """

  def __init__(self) -> None:
    self.signal: signal.Signals | None = None

  def __bool__(self) -> bool:
    return self.signal is not None

  @property
  def exit_status(self) -> int:
    """Returns 128 + signal number (143 for SIGTERM), by which schedulers know a stopped job."""
    return 128 + self.signal if self.signal is not None else 0


@contextlib.contextmanager
def catch_stop(*, several: bool = False) -> Iterator[StopRequest]:
  """Notes SIGTERM and SIGINT instead of ending the process; a second SIGINT interrupts as usual.

  Args:
    several: whether this is one of several processes, which have to agree on when to stop. SIGTERM
      is then left to JAX, which tells the others (see `agree_on_stop`), and SIGINT is passed on as
      a SIGTERM.
  """
  request = StopRequest()

  def note(number: int, frame: types.FrameType | None) -> None:
    del frame
    if request and number == signal.SIGINT:
      raise KeyboardInterrupt
    request.signal = signal.Signals(number)
    if several:
      os.kill(os.getpid(), signal.SIGTERM)

  noted = (signal.SIGINT,) if several else (signal.SIGTERM, signal.SIGINT)
  previous = {s: signal.signal(s, note) for s in noted}
  try:
    yield request
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)


def agree_on_stop(dispatch: int, request: StopRequest) -> bool:
  """Tells whether the run is to stop after this dispatch of steps, the same in all processes.

  Call it after every dispatch. A signal to any of the processes stops them all, a dispatch or two
  later: JAX picks a step that no process has passed yet.

  Args:
    dispatch: the number of the dispatch, counted from 1 without a gap.
    request: that of this process; afterwards it holds what all processes agreed on.
  """
  import jax
  from jax.experimental import multihost_utils

  if jax.process_count() == 1:
    return bool(request)
  if not multihost_utils.reached_preemption_sync_point(dispatch):
    return False
  request.signal = request.signal or signal.SIGTERM
  return True
