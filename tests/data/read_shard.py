"""Reads one process's share of a run's batches; a program that tests start, kill and resume.

python -m tests.data.read_shard DATA_DIR PROCESS START HANG_AFTER
"""

import multiprocessing
import signal
import sys

from dpoq_jax.data import corrupt_records, examples, streamed
from dpoq_jax.data.order import Order

BATCH_SIZE = 8
EPOCHS = 2


def read(
  data_dir: str, process: int, processes: int, start: int, workers: int
) -> tuple[Order, examples.Batches]:
  """The order of the run, and the batches of a process from `start`."""
  options = streamed.Options(image_size=32, resize=36, workers=workers)
  train = streamed.load('tiny_imagenet', 'train', data_dir, options, corrupt_records.Tally(0))
  order = Order(len(train), BATCH_SIZE, 1, EPOCHS, process, processes)
  return order, train.training_batches(order, start)


def main() -> None:
  """Prints its workers' process ids, then the records of one batch a line."""
  data_dir, process, start, hang_after = sys.argv[1], *map(int, sys.argv[2:])
  _, batches = read(data_dir, process, 2, start, workers=2)
  for number, batch in enumerate(batches):
    if number == 0:
      print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    print(*batch['index'], flush=True)
    if number + 1 == hang_after:
      signal.pause()


if __name__ == '__main__':
  main()
