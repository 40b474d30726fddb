"""Stopping on request: a signal is noted at once and acted on between steps."""

from collections.abc import Iterator
import contextlib
import os
import signal


class StopRequest:
  """Whether the process was asked to stop.

  Attributes:
    signal: the signal that asked, or None.
  """

  def __init__(self):
    self.signal: signal.Signals | None = None

  def __bool__(self) -> bool:
    return self.signal is not None

  @property
  def exit_status(self) -> int:
    """128 + signal number, 143 for SIGTERM: what schedulers take for 'was stopped, restart it'."""
    return 128 + self.signal if self.signal is not None else 0


@contextlib.contextmanager
def catch_stop(*, several: bool = False) -> Iterator[StopRequest]:
  """Notes SIGTERM and SIGINT instead of dying of them; a second SIGINT interrupts as usual.

  Args:
    several: this is one of several processes, which have to agree on when to stop: SIGTERM is left
      to JAX, which tells the others (see `processes.stops_after`), and SIGINT taken for it.
  """
  request = StopRequest()

  def note(number, frame):
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
