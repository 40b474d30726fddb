"""Runs a function ahead of time in worker processes, with grain: results in order, no orphans."""

from collections.abc import Callable, Generator
import contextlib
import multiprocessing
from multiprocessing import resource_tracker
import os
import signal
import threading
from typing import Any, TypeVar

from absl import flags

T = TypeVar('T')

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# Threads of this process share one interpreter lock: more than these decode no faster.
_MOST_THREADS = 4

# Bytes from which grain passes an array through shared memory: never, they all go through a pipe.
# Many containers have 64 MB of shared memory, a worker that needs more is killed there, and a run
# that is killed leaves its shared memory behind.
_NO_SHARED_MEMORY = 2**62


def run(function: Callable[[int], T], numbers: range, workers: int) -> Generator[T, None, None]:
  """Yields `function(number)` for each number, in order, computed ahead of time.

  Args:
    function: function to run; it is pickled, and its results must not depend on the process.
    numbers: arguments of the calls, a range with a step of 1.
    workers: most processes to start; 0 runs threads of this process instead. Grain spawns them, so
      that a script which starts them needs `if __name__ == '__main__'`.

  Yields:
    The result of each call, in order. Close the generator if it is left before its end: workers end
    with it, and with this process, however that ends. They ignore SIGINT and SIGTERM, which a
    terminal and a scheduler send to all processes of a job, as this process decides what to do.
  """
  # Imported late, as grain imports JAX, which takes a second.
  import grain
  from grain import experimental

  workers = min(workers, len(numbers))
  threads = 0 if workers else min(_MOST_THREADS, os.cpu_count() or 1)
  results = (
    grain.MapDataset.range(numbers.start, numbers.stop)
    .map(function)
    .to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads))
  )
  options = experimental.DatasetOptions(min_shm_size=_NO_SHARED_MEMORY)
  results = experimental.WithOptionsIterDataset(results, options)
  if workers:
    processes = grain.MultiprocessingOptions(num_workers=workers)
    results = results.mp_prefetch(processes, worker_init_fn=_end_with_parent)
  iterator: Any = iter(results)
  try:
    if workers:
      _start(iterator)
    yield from iterator
  finally:
    iterator.close()


def _start(iterator: Any) -> None:
  """Starts all workers such that they ignore signals from their first instruction on."""
  # Grain reads absl flags of its own, which a script without absl has not parsed.
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  # Started before the signals are blocked: if a worker's start had to start it, Python 3.11 would
  # let the signals through again.
  resource_tracker.ensure_running()
  with _signals_blocked():
    # Asking for the state makes grain create the iterators of all workers now, in this thread.
    # Otherwise it creates them in threads of its own, and closing it would leave some behind.
    iterator.get_state()
    iterator.start_prefetch()


@contextlib.contextmanager
def _signals_blocked() -> Generator[None, None, None]:
  """Blocks signals: threads and processes started within never get them, this thread does later."""
  previous = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _end_with_parent(worker: int, workers: int) -> None:
  """Makes this worker end when its parent does, even if the parent was killed."""
  del worker, workers
  parent = multiprocessing.parent_process()
  assert parent is not None

  def wait() -> None:
    parent.join()
    os._exit(1)

  threading.Thread(target=wait, daemon=True).start()
