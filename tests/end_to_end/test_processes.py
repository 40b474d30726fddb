"""One run in several processes, each with devices of its own: the same run as in one process."""

from collections.abc import Callable, Sequence
from concurrent import futures
import pathlib
import shutil
import signal
import socket
import subprocess
import time

import jax
import numpy as np
import pytest

from dpoq_jax.training import trained_network
from tests import conftest
from tests.end_to_end import runs

# 22 steps.
SHORT = ('--config.epochs=1', '--config.checkpoint_every=4')
# Rounding makes much of a sum's last bit from step to step, so what is compared is a float network,
FLOAT = (*SHORT, '--config.quantization.activation_bits=32')
# and a quantized one that moves little.
SLOW = (
  '--config.epochs=1',
  '--config.log_every=11',
  '--config.optimizer.learning_rate=1e-4',
)


def start(
  workdir: pathlib.Path,
  *flags: str,
  bits: str = '32',
  count: int = 2,
  last: tuple[str, ...] = (),
  cwds: Sequence[pathlib.Path] = (runs.REPOSITORY,),
) -> list[subprocess.Popen[str]]:
  """Processes of two devices each; the last one with flags, and maybe a directory, of its own."""
  return [
    runs.start(
      workdir,
      *flags,
      *(last if index == count - 1 else ()),
      *of_process,
      devices=2,
      bits=bits,
      cwd=cwds[min(index, len(cwds) - 1)],
    )
    for index, of_process in enumerate(joined(count))
  ]


def joined(count: int) -> list[list[str]]:
  """Flags of each process."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  return [
    [f'--coordinator=localhost:{port}', f'--num_processes={count}', f'--process_id={index}']
    for index in range(count)
  ]


def finish(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
  return [runs.finish(process) for process in processes]


def ends_well(processes: list[subprocess.Popen[str]]) -> None:
  for status, _, err in finish(processes):
    assert status == 0, err


def beyond(workdir: pathlib.Path, step: int) -> Callable[[], bool]:
  return lambda: max(runs.steps_saved(workdir), default=0) > step


@pytest.fixture(scope='module')
def alone(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Directory of the float run in one process with one device."""

  def make(path: pathlib.Path) -> None:
    status, _, err = runs.train(path, *FLOAT, bits='32')
    assert status == 0, err

  return conftest.once(tmp_path_factory, 'alone', make)


def assert_same(workdir: pathlib.Path, other: pathlib.Path) -> None:
  found, wanted = trained_network.load_latents(workdir), trained_network.load_latents(other)
  assert found.step == wanted.step >= 20
  for a, b in zip(jax.tree.leaves(found.variables), jax.tree.leaves(wanted.variables), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
  ours, theirs = runs.rows(workdir), runs.rows(other)
  assert [(row['step'], row['kind']) for row in ours] == [
    (row['step'], row['kind']) for row in theirs
  ]
  for row, expected in zip(ours, theirs, strict=True):
    assert row['loss'] == pytest.approx(expected['loss'], abs=1e-3)


@pytest.mark.nightly
def test_stopped_and_bereaved_it_ends_as_in_one_process(
  alone: pathlib.Path, tmp_path: pathlib.Path
):
  run = tmp_path / 'run'
  both = start(run, *FLOAT)
  runs.wait_until(both[0], beyond(run, 0))
  # A signal to any of them stops all, at one step.
  both[1].send_signal(signal.SIGTERM)
  (status, out, err), (other, _, other_err) = finish(both)
  assert (status, other) == (143, 143), (err, other_err)
  assert 'run the same command again to resume' in out
  stopped = max(runs.steps_saved(run))

  both = start(run, *FLOAT)
  runs.wait_until(both[0], beyond(run, stopped))
  both[1].kill()
  lost = time.monotonic()
  (status, _, _), _ = finish(both)
  assert status not in (0, 143)
  assert time.monotonic() - lost < 60

  status, out, err = runs.train(run, *FLOAT, bits='32')
  assert status == 0, err
  assert 'resuming from step' in out
  assert_same(run, alone)


@pytest.mark.nightly
def test_a_run_of_one_process_goes_on_in_two(alone: pathlib.Path, tmp_path: pathlib.Path):
  run = tmp_path / 'run'
  process = runs.start(run, *FLOAT, bits='32')
  runs.wait_until(process, beyond(run, 0))
  process.send_signal(signal.SIGTERM)
  assert runs.finish(process)[0] == 143
  assert max(runs.steps_saved(run)) < 22
  ends_well(start(run, *FLOAT))
  assert_same(run, alone)
  # Told once, by the one that writes.
  assert len(runs.rows(run)) == len(runs.rows(alone))


def test_a_quantized_network_is_trained_alike_several_steps_at_once(tmp_path: pathlib.Path):
  status, _, err = runs.train(tmp_path / 'alone', *SLOW)
  assert status == 0, err
  ends_well(start(tmp_path / 'run', '--config.steps_per_dispatch=11', *SLOW, bits='2,4'))
  assert_same(tmp_path / 'run', tmp_path / 'alone')


def test_a_run_of_one_process_that_joined_nobody_stops_as_any(tmp_path: pathlib.Path):
  (process,) = start(tmp_path, *FLOAT, count=1)
  runs.wait_until(process, lambda: len(runs.rows(tmp_path)) >= 1)
  process.send_signal(signal.SIGTERM)
  status, out, err = runs.finish(process)
  assert status == 143, err
  assert 'run the same command again to resume' in out


@pytest.mark.parametrize(
  ('flag', 'said'),
  [
    ('--config.seed=1', 'the processes differ in config.seed: 0 -> 1.'),
    pytest.param(
      *('--config.steps_per_dispatch=2', 'config.steps_per_dispatch: None -> 2.'),
      marks=pytest.mark.nightly,
    ),
    pytest.param(
      *('--config.init_from=/nowhere', 'config.init_from: None -> /nowhere'),
      marks=pytest.mark.nightly,
    ),
    # Found before configs are compared, for which the others would wait.
    pytest.param(
      *(f'--workdir={__file__}', 'is a file; give a directory.'), marks=pytest.mark.nightly
    ),
  ],
)
def test_what_fails_in_any_process_fails_in_all(flag: str, said: str, tmp_path: pathlib.Path):
  run = tmp_path / 'run'
  (status, _, err), (other, _, other_err) = finish(start(run, *FLOAT, last=(flag,)))
  assert (status, other) == (2, 2)
  assert said in other_err
  assert err.strip().splitlines()[-1] == 'error: process 1 failed; its output says why.'
  assert not run.exists()


@pytest.mark.nightly
def test_what_fails_in_the_first_process_fails_in_all(alone: pathlib.Path, tmp_path: pathlib.Path):
  elsewhere = (f'--workdir={tmp_path / "run"}',)
  both = finish(start(alone, '--config.seed=1', *FLOAT, last=elsewhere))
  (status, _, err), (other, _, other_err) = both
  assert (status, other) == (2, 2)
  assert 'holds a run with another config' in err
  assert other_err.strip().splitlines()[-1] == 'error: process 0 failed; its output says why.'


def of_two(folder: pathlib.Path, run: pathlib.Path, name: str) -> tuple[pathlib.Path, pathlib.Path]:
  """Directories of two processes, of which the first has a copy of a run."""
  here, there = folder / 'here', folder / 'there'
  there.mkdir()
  shutil.copytree(run, here / name)
  return here, there


def copy_without_its_end(run: pathlib.Path, copy: pathlib.Path) -> None:
  """Copies a run as it was before its last checkpoint."""
  shutil.copytree(run, copy)
  shutil.rmtree(copy / 'checkpoints' / str(max(runs.steps_saved(copy))))


@pytest.mark.nightly
def test_what_the_first_process_cannot_write_ends_all_with_a_line(
  alone: pathlib.Path, tmp_path: pathlib.Path
):
  run = shutil.copytree(alone, tmp_path / 'run')
  (run / 'dataset.json').unlink()
  (run / 'dataset.json').mkdir()
  (status, _, err), (other, _, other_err) = finish(start(run, *FLOAT))
  assert (status, other) == (4, 1)
  assert err.strip().splitlines()[-1].startswith('error: ')
  assert other_err.strip().splitlines()[-1] == 'error: process 0 failed; its output says why.'
  assert 'Traceback' not in err + other_err


@pytest.mark.nightly
def test_processes_start_from_the_same_weights_or_not_at_all(
  alone: pathlib.Path, tmp_path: pathlib.Path
):
  here, there = of_two(tmp_path, alone, 'old')

  def errors() -> tuple[str, str]:
    flags = (*SHORT, '--config.init_from=old')
    both = finish(start(tmp_path / 'run', *flags, bits='2,4', cwds=(here, there)))
    assert [status for status, _, _ in both] == [2, 2]
    assert not (tmp_path / 'run').exists()
    first, second = (err.strip().splitlines()[-1] for _, _, err in both)
    return first, second

  first, second = errors()
  assert first == 'error: process 1 failed; its output says why.'
  assert second == 'error: old: there is no such folder.'

  copy_without_its_end(alone, there / 'old')
  first, second = errors()
  assert first == 'error: process 1 failed; its output says why.'
  assert second.startswith('error: the processes differ in their weights to start from: checksum')


@pytest.mark.nightly
def test_what_one_process_cannot_evaluate_none_does(alone: pathlib.Path, tmp_path: pathlib.Path):
  here, there = of_two(tmp_path, alone, 'run')

  def evaluate(of_process: list[str], cwd: pathlib.Path) -> subprocess.CompletedProcess[str]:
    return runs.command('evaluate', '--workdir=run', *of_process, cwd=cwd)

  def errors() -> list[str]:
    with futures.ThreadPoolExecutor(2) as pool:
      both = list(pool.map(evaluate, joined(2), (here, there)))
    assert [done.returncode for done in both] == [2, 2]
    return [done.stderr.strip().splitlines()[-1] for done in both]

  first, second = errors()
  assert first == 'error: process 1 failed; its output says why.'
  assert second == 'error: run: there is no such folder.'

  copy_without_its_end(alone, there / 'run')
  first, second = errors()
  assert second.startswith('error: the processes differ in their checkpoints: step: 22 -> 20;')


@pytest.mark.parametrize(
  'flags',
  [
    ['--num_processes=2'],
    ['--coordinator=localhost:1', '--process_id=0'],
    ['--coordinator=localhost:1', '--num_processes=2', '--process_id=2'],
    ['--coordinator=localhost', '--num_processes=2', '--process_id=0'],
    ['--distributed', '--num_processes=2'],
  ],
)
def test_flags_that_do_not_fit_are_one_line(flags: list[str], tmp_path: pathlib.Path):
  status, err = runs.refused('train', f'--workdir={tmp_path / "run"}', *flags)
  assert status == 2
  assert len(err.splitlines()) == 1
  assert err.startswith('error: ')
