"""Files of a run of any content: damaged, cut short, of another run."""

from collections.abc import Callable
import contextlib
import json
import os
import pathlib
import socket
from typing import Any

import numpy as np
import pytest

from dpoq_jax import config as config_lib
from dpoq_jax.inference import operating_point
from dpoq_jax.reproduction import summaries
from dpoq_jax.runtime import workdir
from dpoq_jax.training import metrics
from tests.fuzz import mutations

TRAINED = {'learning_rate': 0.1, 'skipped': 0}
ROWS = [
  {'step': step, 'kind': kind, 'epoch': step / 2, 'loss': {'2': 1.0, '4': 0.5},
   'top1': {'2': 0.25, '4': 0.5}, **(TRAINED if kind == 'train' else {'ensemble_top1': {'2': 0.5}})}
  for step in range(1, 6) for kind in ('train', 'eval')
]  # fmt: skip
PRECISION = {
  'top1': 0.5, 'top1_best': 0.5, 'ensemble_top1': 0.5, 'relative_bitops': 1.0, 'bytes': 100,
}  # fmt: skip
SUMMARY = {
  'dataset': 'digits', 'model': 'resnet8', 'bits': [2, 4], 'steps': 5, 'examples_per_second': 10.0,
  'precisions': {'2': PRECISION, '4': PRECISION},
}  # fmt: skip
FACTS = {'image_shape': [8, 8, 1], 'class_names': ['a', 'b']}

FILES: dict[str, tuple[str, Callable[[pathlib.Path], Any]]] = {
  'config.json': (config_lib.Config().model_dump_json(), workdir.read_config),
  'dataset.json': (json.dumps(FACTS), workdir.read_dataset),
  'summary.json': (json.dumps(SUMMARY), lambda folder: summaries.read(folder / 'summary.json')),
  'operating_point.json': (operating_point.static((2, 4), 2).to_json(), operating_point.read),
}


def bind(path: pathlib.Path) -> None:
  # Paths of sockets are short.
  with contextlib.closing(socket.socket(socket.AF_UNIX)) as bound, contextlib.chdir(path.parent):
    bound.bind(path.name)


IN_PLACE_OF_A_FILE: dict[str, Callable[[pathlib.Path], Any]] = {
  'FIFO': os.mkfifo,
  'socket': bind,
  'device': lambda path: path.symlink_to('/dev/null'),
  'folder': lambda path: (path / 'file').mkdir(parents=True),
}


def refusal(read: Callable[[pathlib.Path], Any], folder: pathlib.Path) -> str | None:
  """Why a file is refused, if it is; other errors than these are faults."""
  try:
    read(folder)
  except ValueError as error:
    return str(error)
  return None


@mutations.counts
@pytest.mark.parametrize('name', FILES)
@mutations.no_hang(200)
def test_objects(name: str, count: int, tmp_path: pathlib.Path):
  text, read = FILES[name]
  rng, taken = np.random.default_rng(0), 0
  for number in range(count):
    damaged = (
      mutations.mutated_bytes(rng, text.encode())
      if number % 2
      else mutations.mutated_json(rng, text).encode()
    )
    (tmp_path / name).write_bytes(damaged)
    message = refusal(read, tmp_path)
    taken += message is None
    assert message is None or (name in message and '\n' not in message)
  assert taken < count


@mutations.counts
@mutations.no_hang(200)
def test_metrics(count: int, tmp_path: pathlib.Path):
  lines = [json.dumps(row) for row in ROWS]
  text = '\n'.join(lines) + '\n'
  rng, taken = np.random.default_rng(0), 0
  path = tmp_path / metrics.METRICS_FILE
  for number in range(count):
    if number % 2:
      damaged = mutations.mutated_bytes(rng, text.encode())
    else:
      place = int(rng.integers(len(lines)))
      changed = [*lines]
      changed[place] = mutations.mutated_json(rng, lines[place])
      damaged = '\n'.join(changed).encode() + b'\n'
    path.write_bytes(damaged)
    if message := refusal(metrics.read_rows, tmp_path):
      assert f'{path}, line ' in message
      assert '\n' not in message
      continue
    rows, taken = metrics.read_rows(tmp_path), taken + 1
    # Nothing but a torn last line may be passed over, and whoever reads rows can rely on them.
    assert len(rows) >= damaged.count(b'\n')
    metrics.best_top1(rows)
    metrics.mean_top1(rows)
    metrics.top1_at(rows, 3)
  assert 0 < taken < count


@pytest.mark.parametrize('kind', IN_PLACE_OF_A_FILE)
@pytest.mark.parametrize('name', [*FILES, metrics.METRICS_FILE])
@mutations.no_hang(1)
def test_what_is_no_regular_file_is_neither_waited_for_nor_taken_for_nothing(
  name: str, kind: str, tmp_path: pathlib.Path
):
  IN_PLACE_OF_A_FILE[kind](tmp_path / name)
  _, read = FILES.get(name, ('', metrics.read_rows))
  assert refusal(read, tmp_path) == f'{tmp_path / name} is a {kind}, not a regular file.'


@mutations.no_hang(1)
def test_a_pipe_is_no_operating_point_that_met_its_target(tmp_path: pathlib.Path):
  os.mkfifo(tmp_path / operating_point.FILE)
  assert not operating_point.is_met(tmp_path / operating_point.FILE)
