"""Tells how much memory a device has, for runs that cannot fit to be refused before they start."""

import contextlib
import os
import pathlib
from typing import Any

import jax

# Where control groups limit a container: of version 2 and of version 1.
_LIMITS = ('/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes')


def of_device(device: Any) -> int | None:
  """Returns the bytes that a device of this process has in all; None if it does not tell.

  The devices of a CPU share the memory of the machine, or what its container may have of it.
  """
  if device.platform != 'cpu':
    return (device.memory_stats() or {}).get('bytes_limit')
  found = [os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')]
  for path in _LIMITS:
    # Version 2 says `max` where there is no limit.
    with contextlib.suppress(OSError, ValueError):
      found.append(int(pathlib.Path(path).read_text()))
  return min(found) // jax.local_device_count()
