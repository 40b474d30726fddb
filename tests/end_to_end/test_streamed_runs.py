"""A network on a streamed set: trained, killed, resumed, evaluated, calibrated, used, shown."""

import csv
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from dpoq_jax.data import crop
from dpoq_jax.runtime.workdir import read_config
from dpoq_jax.training import checkpoint, experiment
from tests import conftest
from tests.data import jpegs
from tests.end_to_end import runs

DAMAGED = 11


@pytest.fixture(scope='module')
def data_dir(jpeg_data_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """The data set, with a record in the training split that cannot be read."""

  def make(path: pathlib.Path) -> None:
    shutil.copytree(jpeg_data_dir / 'tiny_imagenet', path / 'tiny_imagenet')
    jpegs.damage(path / 'tiny_imagenet' / '1.0.0', 'train', DAMAGED)

  return conftest.once(tmp_path_factory, 'damaged_jpegs', make)


def flags(data_dir: pathlib.Path, workers: int = 0) -> list[str]:
  """2 epochs of 7 steps."""
  return [
    '--config.data.name=tiny_imagenet',
    f'--config.data.dir={data_dir}',
    '--config.data.batch_size=8',
    '--config.data.image_size=32',
    '--config.data.resize=36',
    '--config.data.pad=0',
    '--config.data.flip=True',
    '--config.data.max_corrupt=1',
    '--config.checkpoint_every=3',
    f'--config.data.workers={workers}',
  ]


@pytest.fixture(scope='module')
def uninterrupted(data_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Directory of a run that nothing disturbed, decoded in threads."""

  def make(path: pathlib.Path) -> None:
    status, _, err = runs.train(path, *flags(data_dir))
    assert status == 0, err
    assert err.count('skipping corrupt record train record') == 1

  return conftest.once(tmp_path_factory, 'uninterrupted_streamed', make)


def children(parent: int) -> list[int]:
  """Processes that a process has started."""
  found = []
  for stat in pathlib.Path('/proc').glob('[0-9]*/stat'):
    try:
      if int(stat.read_text().rpartition(')')[2].split()[1]) == parent:
        found.append(int(stat.parent.name))
    except (FileNotFoundError, ProcessLookupError):
      continue
  return found


def wait_until_ended(processes: list[int]) -> None:
  def alive(process: int) -> bool:
    try:
      stat = pathlib.Path(f'/proc/{process}/stat').read_text()
    except (FileNotFoundError, ProcessLookupError):
      return False
    # A zombie waits for whoever adopted it.
    return stat.rpartition(')')[2].split()[0] != 'Z'

  deadline = time.monotonic() + 60
  while any(map(alive, processes)):
    assert time.monotonic() < deadline, 'workers outlive the command'
    time.sleep(0.02)


def output(done: subprocess.CompletedProcess[str]) -> str:
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.mark.nightly
def test_stopped_and_killed_it_ends_as_if_nothing_had_happened(
  data_dir: pathlib.Path, uninterrupted: pathlib.Path, tmp_path: pathlib.Path
):
  run = tmp_path / 'run'
  # Killed outright, its workers with it; then stopped as by a scheduler, which signals all of a
  # job's processes; then resumed with another number of workers.
  for number in (signal.SIGKILL, signal.SIGTERM):
    process = runs.start(run, *flags(data_dir, workers=2))
    done = max(runs.steps_saved(run), default=0)
    runs.wait_until(process, lambda done=done: max(runs.steps_saved(run), default=0) > done)
    started = children(process.pid)
    # Two workers, and what Python has look after their semaphores.
    assert len(started) >= 3
    if number == signal.SIGTERM:
      for child in started:
        os.kill(child, number)
    process.send_signal(number)
    status, out, err = runs.finish(process)
    assert status == (143 if number == signal.SIGTERM else -9), err
    assert 'Traceback' not in err
    wait_until_ended(started)
  assert ': run the same command again to resume.' in out
  status, out, err = runs.train(run, *flags(data_dir, workers=0))
  assert status == 0, err
  assert 'resuming from step' in out
  assert runs.rows(run) == runs.rows(uninterrupted)
  assert runs.results(run) == runs.results(uninterrupted)


def test_the_corrupt_record_is_in_the_checkpoint(uninterrupted: pathlib.Path):
  checkpoints = checkpoint.Checkpoints(uninterrupted, read_only=True)
  setup = experiment.build(read_config(uninterrupted))
  restored = checkpoints.restore(setup.abstract_state())
  checkpoints.close()
  assert restored is not None
  ((name, reason),) = restored.meta['corrupt'].items()
  assert name.startswith('train record ')
  assert 'hash mismatch' in reason


def test_too_many_corrupt_records_end_the_command_with_one_line(
  data_dir: pathlib.Path, tmp_path: pathlib.Path
):
  strict = [flag.replace('max_corrupt=1', 'max_corrupt=0') for flag in flags(data_dir)]
  status, _, err = runs.train(tmp_path, *strict, bits='2')
  assert status == 1
  assert err.startswith('error: 1 corrupt records, more than config.data.max_corrupt=0, the last')
  assert len(err.splitlines()) == 1


def test_a_trained_network_is_evaluated_calibrated_used_and_shown(
  uninterrupted: pathlib.Path, tmp_path: pathlib.Path
):
  run = tmp_path / 'run'
  shutil.copytree(uninterrupted, run)
  before = json.loads((run / 'summary.json').read_text())
  output(runs.command('evaluate', f'--workdir={run}'))
  after = json.loads((run / 'summary.json').read_text())
  assert after['precisions'] == before['precisions']
  out = output(runs.call('calibrate', f'--workdir={run}', '--average_bits=3'))
  assert 'the other 7 of the 13 validation examples' in out
  output(runs.call('report', f'--workdir={run}'))
  assert 'data:image/png' in (run / 'report' / 'report.html').read_text()
  # Files of any size are resized and cropped as in evaluation.
  images = tmp_path / 'images'
  images.mkdir()
  rows = list(jpegs.examples('validation'))
  for row in rows:
    (images / row['file_name'].lower()).write_bytes(row['image'])
  crops = np.stack([crop.evaluation_crop(row['image'], 32, 36) for row in rows])
  np.save(tmp_path / 'crops.npy', crops)
  labels = []
  for given in (images, tmp_path / 'crops.npy'):
    out = output(runs.call('predict', f'--workdir={run}', f'--images={given}', '--precision=4'))
    labels.append([row['label'] for row in csv.DictReader(io.StringIO(out))])
  assert labels[0] == labels[1]


def test_data_that_are_elsewhere_are_given_by_the_flag_of_the_command(
  data_dir: pathlib.Path, uninterrupted: pathlib.Path, tmp_path: pathlib.Path
):
  """Runs of earlier versions hold a path that was relative to where they were trained."""
  run = tmp_path / 'run'
  shutil.copytree(uninterrupted, run)
  config = json.loads((run / 'config.json').read_text())
  assert config['data']['dir'] == str(data_dir)
  config['data']['dir'] = 'no_data'
  (run / 'config.json').write_text(json.dumps(config))
  for command, *more in (
    ('evaluate',), ('calibrate',), ('report',),
    ('export', '--format=onnx', f'--output={tmp_path / "exported"}'),
  ):  # fmt: skip
    assert runs.refused(command, f'--workdir={run}', *more) == (
      2,
      f'error: data set tiny_imagenet in {runs.REPOSITORY / "no_data"} not found: '
      'give --data-dir=DIR, where it is now\n',
    )
  done = runs.call('evaluate', f'--workdir={run}', f'--data-dir={data_dir}')
  assert done.returncode == 0, done.stderr
