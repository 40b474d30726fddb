"""Damages what an entry point reads: bytes as storage and transfers do, JSON as people do.

Every mutation is drawn from a generator, so that a failure is repeated by its seed and number.
"""

from collections.abc import Iterator
import contextlib
import json
import pathlib
import re
import signal
from typing import Any

import numpy as np
import pytest

SHORT, LONG = 100, 10_000
"""Inputs of the ordinary suite, and of `--all`."""

counts = pytest.mark.parametrize('count', [SHORT, pytest.param(LONG, marks=pytest.mark.exhaustive)])
"""Gives a test the number of inputs to try, as its argument `count`."""

_NUMBERS = (0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e308, float('nan'), float('inf'))
_SIZES = (0, 1, 255, 4096, 10_000, 16_383, 30_000, 2**16 - 1, 2**20, 2**28, 2**31 - 1, 2**32 - 1)
_TEXTS = ('', '\0', '../x', 'a' * 100_000, '[bold]', '\x1b[2J', 'x\ry', '\ud800', 'None', '=1+1')


def mutated_bytes(rng: np.random.Generator, data: bytes) -> bytes:
  """Returns damaged bytes: flipped, cut, doubled, overwritten, or nothing to do with them."""
  damaged = bytearray(data)
  match rng.integers(6):
    case 0:  # bits flipped
      for _ in range(int(rng.integers(1, 9))):
        if damaged:
          damaged[rng.integers(len(damaged))] ^= 1 << int(rng.integers(8))
    case 1:  # cut short
      del damaged[int(rng.integers(len(damaged) + 1)) :]
    case 2:  # a piece doubled
      start, end = sorted(rng.integers(len(damaged) + 1, size=2))
      damaged[end:end] = damaged[start:end]
    case 3:  # a piece overwritten
      start, end = sorted(rng.integers(len(damaged) + 1, size=2))
      damaged[start:end] = rng.bytes(int(end - start))
    case 4:  # a piece lost
      start, end = sorted(rng.integers(len(damaged) + 1, size=2))
      del damaged[start:end]
    case _:  # something else altogether
      damaged = bytearray(rng.bytes(int(rng.integers(200))))
  return bytes(damaged)


def mutated_sizes(rng: np.random.Generator, data: bytes) -> bytes:
  """Returns bytes that say another number at up to three places of their first few hundred."""
  damaged = bytearray(data)
  for _ in range(int(rng.integers(1, 4))):
    number, count = _pick(rng, _SIZES), int(_pick(rng, (1, 2, 4)))
    order: Any = _pick(rng, ('little', 'big'))
    place = int(rng.integers(max(1, min(len(data) - count, 400))))
    damaged[place : place + count] = (number % 256**count).to_bytes(count, order)
  return bytes(damaged)


def mutated_json(rng: np.random.Generator, text: str) -> str:
  """Returns JSON in which one value, key or entry is another, or is gone."""
  document = json.loads(text)
  places = list(_places(document))
  holder, key = places[rng.integers(len(places))]
  value = holder[key]
  choice = int(rng.integers(8))
  if choice == 0:
    del holder[key]
  elif choice == 1 and isinstance(holder, dict):
    holder[_pick(rng, _TEXTS)] = holder.pop(key)
  elif choice == 2:
    other, name = places[rng.integers(len(places))]
    holder[key] = other[name]
  elif choice == 3:
    holder[key] = [value] * int(rng.integers(5))
  elif choice == 4:
    holder[key] = {'x': value}
  elif choice == 5:
    holder[key] = _pick(rng, _TEXTS)
  elif choice == 6 and isinstance(value, int | float):
    holder[key] = value * int(rng.integers(-2, 3)) + int(rng.integers(-1, 2))
  else:
    holder[key] = _pick(rng, (*_NUMBERS, None, True, [], {}))
  try:
    return json.dumps(document)
  except ValueError:  # A value was put into itself.
    return text[: len(text) // 2]


def _places(document: Any) -> Any:
  """Yields the holder and the key of every value of a JSON document."""
  entries = enumerate(document) if isinstance(document, list) else document.items()
  for key, value in list(entries):
    yield document, key
    if isinstance(value, list | dict):
      yield from _places(value)


def _pick(rng: np.random.Generator, values: Any) -> Any:
  return values[rng.integers(len(values))]


@contextlib.contextmanager
def no_hang(seconds: float = 20.0) -> Iterator[None]:
  """Fails if what is inside computes for longer, or is still at it after a hundred times as long.

  A busy machine makes everything take longer, but compute no more.

  Args:
    seconds: CPU time of the process, all threads together.
  """

  def stop(number: int, _: Any) -> None:
    kind = 'of computing' if number == signal.SIGPROF else 'by the clock'
    # No subclass of Exception, which what is tested might take for its own.
    pytest.fail(f'still at it after {limits[number][1]:g} s {kind}')

  limits: dict[int, tuple[int, float]] = {
    signal.SIGPROF: (signal.ITIMER_PROF, seconds),
    signal.SIGALRM: (signal.ITIMER_REAL, 100 * seconds),
  }
  before = {number: signal.signal(number, stop) for number in limits}
  for timer, most in limits.values():
    signal.setitimer(timer, most)
  try:
    yield
  finally:
    for number, (timer, _) in limits.items():
      signal.setitimer(timer, 0)
      signal.signal(number, before[number])


@contextlib.contextmanager
def little_memory(most: int = 2 * 10**9) -> Iterator[None]:
  """Fails if the process comes to hold more bytes than `most` beside what it held before.

  Linux alone tells the highest mark, and forgets it when asked; elsewhere nothing is measured.
  """
  if not (forget := pathlib.Path('/proc/self/clear_refs')).exists():
    yield
    return

  def held(what: str) -> int:
    status = pathlib.Path('/proc/self/status').read_text()
    (line,) = re.findall(rf'{what}:\s+([0-9]+) kB', status)
    return int(line) * 1024

  forget.write_text('5')
  before = held('VmRSS')
  yield
  peak = held('VmHWM') - before
  print(f'peak memory {peak / 1e9:.2f} GB')
  assert peak < most
