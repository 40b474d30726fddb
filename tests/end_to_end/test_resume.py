"""Runs that are stopped, killed or damaged end as if nothing had happened, bit for bit."""

import math
import pathlib
import shutil
import signal
from typing import Any
import warnings

import chex
import pytest

from dpoq_jax.runtime import workdir as workdir_lib
from dpoq_jax.training import checkpoint, experiment
from tests.end_to_end import runs


def last_state(workdir: pathlib.Path) -> Any:
  """The newest checkpoint's whole state: parameters, statistics, optimizer, counters."""
  setup = experiment.build(workdir_lib.read_config(workdir))
  checkpoints = checkpoint.Checkpoints(workdir)
  restored = checkpoints.restore(setup.abstract_state())
  checkpoints.close()
  assert restored is not None
  assert restored.step == setup.total_steps
  return restored.state


def assert_same_run(workdir: pathlib.Path, other: pathlib.Path) -> None:
  chex.assert_trees_all_equal(last_state(workdir), last_state(other))
  assert (workdir / 'metrics.jsonl').read_text() == (other / 'metrics.jsonl').read_text()
  assert runs.results(workdir) == runs.results(other)


def test_the_run_wrote_what_it_should(uninterrupted: pathlib.Path):
  rows = runs.rows(uninterrupted)
  # 2 epochs of 22 steps: a row every 5 steps and at the end, an evaluation after each epoch.
  assert [row['step'] for row in rows if row['kind'] == 'train'] == [*range(5, 45, 5), 44]
  assert [row['step'] for row in rows if row['kind'] == 'eval'] == [22, 44]
  # The rate of the last step before the row: it rises for 11 steps, then falls by a cosine for 33.
  peak = workdir_lib.read_config(uninterrupted).optimizer.learning_rate
  rates = [row['learning_rate'] / peak for row in rows if row['kind'] == 'train']
  falling = [(1 + math.cos(math.pi * (step - 1 - 11) / 33)) / 2 for step in [*range(15, 45, 5), 44]]
  assert rates == pytest.approx([5 / 11, 10 / 11, *falling], rel=1e-5)
  assert runs.steps_saved(uninterrupted) == [22, 44]
  summary = runs.results(uninterrupted)
  assert summary['bits'] == [2, 4]
  assert list(summary['precisions']) == ['2', '4']
  last = rows[-1]
  for bits, row in summary['precisions'].items():
    assert row['top1'] == last['top1'][bits]
    assert row['top1_best'] == max(r['top1'][bits] for r in rows if r['kind'] == 'eval')
    assert row['ensemble_top1'] == last['ensemble_top1'][bits]
  assert any(path.name.startswith('events') for path in (uninterrupted / 'tensorboard').iterdir())


def test_a_finished_run_started_again_changes_nothing(
  uninterrupted: pathlib.Path, tmp_path: pathlib.Path
):
  copy = tmp_path / 'run'
  shutil.copytree(uninterrupted, copy)
  status, _, err = runs.train(copy)
  assert status == 0, err
  assert_same_run(copy, uninterrupted)


def test_evaluation_cut_short_is_made_up_for(uninterrupted: pathlib.Path, tmp_path: pathlib.Path):
  # A stop during the last evaluation: the step is saved, the row is not written.
  copy = tmp_path / 'run'
  shutil.copytree(uninterrupted, copy)
  (copy / 'summary.json').unlink()
  lines = (copy / 'metrics.jsonl').read_text().splitlines(keepends=True)
  assert '"kind": "eval"' in lines[-1]
  (copy / 'metrics.jsonl').write_text(''.join(lines[:-1]))
  status, _, err = runs.train(copy)
  assert status == 0, err
  assert_same_run(copy, uninterrupted)


@pytest.mark.parametrize(
  ('number', 'expected'),
  [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.nightly)],
)
def test_stopped_run_saves_says_how_to_resume_and_resumes_bit_identical(
  uninterrupted: pathlib.Path, tmp_path: pathlib.Path, number: signal.Signals, expected: int
):
  process = runs.start(tmp_path)
  # In mid-epoch and between two rows, so that neither helps.
  runs.wait_until(process, lambda: len(runs.rows(tmp_path)) >= 2)
  process.send_signal(number)
  status, out, err = runs.finish(process)
  assert status == expected, err
  [saved] = runs.steps_saved(tmp_path)
  assert f'saved step {saved} of 44: run the same command again to resume.' in out
  assert 'Traceback' not in err
  status, out, err = runs.train(tmp_path)
  assert status == 0, err
  assert f'resuming from step {saved} of 44' in out
  assert_same_run(tmp_path, uninterrupted)


def test_killed_in_mid_save_loses_that_save_and_resumes_bit_identical(
  uninterrupted: pathlib.Path, tmp_path: pathlib.Path
):
  folder = tmp_path / 'checkpoints'

  def partial() -> list[pathlib.Path]:
    return [path for path in folder.glob('*') if not path.name.isdigit()]

  # Checkpoints after every third step: killed twice, each time with a save under way.
  every = '--config.checkpoint_every=3'
  for _ in range(2):
    process = runs.start(tmp_path, every)
    done = len(runs.steps_saved(tmp_path)) and runs.steps_saved(tmp_path)[-1]
    runs.wait_until(
      process,
      lambda done=done: bool(partial()) and max(runs.steps_saved(tmp_path), default=0) > done,
    )
    process.kill()
    _, _, err = runs.finish(process)
    assert 'Traceback' not in err
    reached = max((row['step'] for row in runs.rows(tmp_path)), default=0)
    # The save under way is lost, the one before it is whole.
    assert runs.steps_saved(tmp_path)[-1] >= reached - 2 * 3
  status, out, err = runs.train(tmp_path, every)
  assert status == 0, err
  assert 'resuming from step' in out
  chex.assert_trees_all_equal(last_state(tmp_path), last_state(uninterrupted))
  assert runs.rows(tmp_path) == runs.rows(uninterrupted)
  assert runs.results(tmp_path) == runs.results(uninterrupted)


def damage_arrays(step: pathlib.Path) -> None:
  """Flips bits in the largest file, of arrays: Orbax alone reads that back without a word."""
  data = max((path for path in step.rglob('*') if path.is_file()), key=lambda p: p.stat().st_size)
  content = bytearray(data.read_bytes())
  for position in range(0, len(content), 64):
    content[position] ^= 1
  data.write_bytes(content)


def truncate_arrays(step: pathlib.Path) -> None:
  data = max((path for path in step.rglob('*') if path.is_file()), key=lambda p: p.stat().st_size)
  data.write_bytes(data.read_bytes()[:100])


def empty_folder(step: pathlib.Path) -> None:
  for path in sorted(step.rglob('*'), reverse=True):
    path.unlink() if path.is_file() else path.rmdir()


@pytest.mark.parametrize('damage', [damage_arrays, truncate_arrays, empty_folder])
def test_broken_newest_checkpoint_is_skipped_with_a_warning(
  uninterrupted: pathlib.Path, tmp_path: pathlib.Path, damage: Any
):
  setup = experiment.build(workdir_lib.read_config(uninterrupted))
  copy = tmp_path / 'run'
  shutil.copytree(uninterrupted, copy)
  damage(copy / 'checkpoints' / '44')
  checkpoints = checkpoint.Checkpoints(copy)
  with pytest.warns(UserWarning, match='skipping broken checkpoint .*checkpoints/44'):
    restored = checkpoints.restore(setup.abstract_state())
  checkpoints.close()
  assert restored is not None
  assert restored.step == 22


def test_run_with_a_broken_newest_checkpoint_ends_bit_identical(
  uninterrupted: pathlib.Path, tmp_path: pathlib.Path
):
  copy = tmp_path / 'run'
  shutil.copytree(uninterrupted, copy)
  damage_arrays(copy / 'checkpoints' / '44')
  status, out, err = runs.train(copy)
  assert status == 0, err
  assert 'skipping broken checkpoint' in err
  assert 'resuming from step 22 of 44' in out
  assert_same_run(copy, uninterrupted)


def test_no_intact_checkpoint_is_an_error_not_a_new_start(
  uninterrupted: pathlib.Path, tmp_path: pathlib.Path
):
  setup = experiment.build(workdir_lib.read_config(uninterrupted))
  copy = tmp_path / 'run'
  shutil.copytree(uninterrupted, copy)
  for step in (22, 44):
    truncate_arrays(copy / 'checkpoints' / str(step))
  checkpoints = checkpoint.Checkpoints(copy)
  none_left = pytest.raises(checkpoint.CheckpointError, match=r'no checkpoint in .* can be read')
  with warnings.catch_warnings(action='ignore'), none_left:
    checkpoints.restore(setup.abstract_state())
  checkpoints.close()


FLOAT = ('--config.quantization.activation_bits=32', '--config.optimizer.learning_rate=0.01')
ONE_STEP = ('--config.data.batch_size=1436', '--config.epochs=1')


# Devices sum batch statistics and gradients in another order. A quantizer turns such a difference
# of 1e-7 into a whole level now and then, which later steps amplify: so one step with every
# quantizer in place, and an epoch's worth of steps without.
@pytest.mark.parametrize(
  ('bits', 'flags'),
  [('2,4', ONE_STEP), pytest.param('32', FLOAT, marks=pytest.mark.nightly)],
)
def test_four_devices_agree_with_one(tmp_path: pathlib.Path, bits: str, flags: tuple[str, ...]):
  for name, devices in (('one', 1), ('four', 4)):
    status, _, err = runs.train(tmp_path / name, *flags, devices=devices, bits=bits)
    assert status == 0, err
  one, four = last_state(tmp_path / 'one'), last_state(tmp_path / 'four')
  chex.assert_trees_all_close(one, four, rtol=1e-5, atol=1e-5)
