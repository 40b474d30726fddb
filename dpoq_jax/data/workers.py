"""Runs a function over a range in worker processes, with grain: results in order, no orphans."""

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

# In this process threads share one interpreter: more of them decode no faster.
_MOST_THREADS = 4

# Bytes. Batches go through a pipe: shared memory is 64 MB in many a container, where a worker that
# needs more is killed, and is left behind by a run that is.
_NO_SHARED_MEMORY = 2**62


def run(function: Callable[[int], T], numbers: range, workers: int) -> Generator[T, None, None]:
  """Yields `function(number)` for each number, in order, computed ahead of time.

  Args:
    function: picklable, and the same in every process.
    numbers: with a step of 1.
    workers: processes at most; 0 for threads of this one. Grain spawns them, so that a script which
      starts them needs `if __name__ == '__main__'`.

  Yields:
    One result after another. Close it if it is left before its end; workers end with it, and with
    this process, however that ends. They do not hear SIGINT and SIGTERM, which a terminal and a
    scheduler send to all processes of a job: this one decides what to do.
  """
  # Takes a second, as it imports JAX.
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
  """Starts all workers, deaf to signals from their first instruction."""
  # Grain looks at flags of its own, in a script that has none, too.
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  # Where it is started by a worker's start it would let signals through again (Python 3.11).
  resource_tracker.ensure_running()
  with _signals_blocked():
    # Asking for its state has grain make one iterator per worker here, not in threads of its own
    # as they are needed, which would leave behind those made when it is closed.
    iterator.get_state()
    iterator.start_prefetch()


@contextlib.contextmanager
def _signals_blocked() -> Generator[None, None, None]:
  """Threads and processes started within never get these signals; this thread does, later."""
  previous = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _end_with_parent(worker: int, workers: int) -> None:
  """Has this worker end when its parent does, even if that was killed and told nobody."""
  del worker, workers
  parent = multiprocessing.parent_process()
  assert parent is not None

  def wait() -> None:
    parent.join()
    os._exit(1)

  threading.Thread(target=wait, daemon=True).start()
