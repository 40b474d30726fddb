import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from dpoq_jax.training import checkpoint

META = {'train_seconds': 1.0}


def state(value: float) -> dict:
  return {'w': jnp.full(3, value), 'n': jnp.int32(value)}


def save(workdir: pathlib.Path, top1: dict[int, float], steps: list[int]) -> list[int]:
  """Saves `steps`, each evaluated afterwards, as the loop does; returns what is kept."""
  known = {step: accuracy for step, accuracy in top1.items() if step < steps[0]}
  checkpoints = checkpoint.Checkpoints(workdir, known)
  for step in steps:
    checkpoints.save(state(step), META, step=step)
    checkpoints.wait()
    checkpoints.top1[step] = top1[step]
  checkpoints.close()
  reader = checkpoint.Checkpoints(workdir, top1, read_only=True)
  kept = [path for path in (workdir / 'checkpoints').iterdir() if path.name.isdigit()]
  assert reader.best_step() == max((int(path.name) for path in kept), key=lambda step: top1[step])
  reader.close()
  return sorted(int(path.name) for path in kept)


def test_newest_two_and_best_are_kept_also_over_restarts(tmp_path: pathlib.Path):
  top1 = {1: 0.5, 2: 0.9, 3: 0.6, 4: 0.6, 5: 0.6, 6: 0.61}
  assert save(tmp_path, top1, [1, 2, 3]) == [2, 3]
  assert save(tmp_path, top1, [4, 5, 6]) == [2, 5, 6]


def test_round_trip_keeps_values_dtypes_and_meta(tmp_path: pathlib.Path):
  checkpoints = checkpoint.Checkpoints(tmp_path)
  assert checkpoints.restore(state(0)) is None
  checkpoints.save(state(7), META, step=7)
  checkpoints.wait()
  restored = checkpoints.restore(state(0))
  checkpoints.close()
  assert restored is not None
  assert restored.step == 7
  assert restored.meta == META
  np.testing.assert_array_equal(restored.state['w'], np.full(3, 7, np.float32))
  assert restored.state['n'].dtype == jnp.int32


def test_a_reader_warns_of_nothing(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture):
  save(tmp_path, {1: 0.5}, [1])
  caplog.clear()
  checkpoint.Checkpoints(tmp_path, read_only=True).close()
  assert not [record for record in caplog.records if record.levelname == 'WARNING']


def test_reader_leaves_a_save_under_way_alone(tmp_path: pathlib.Path):
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.save(state(1), META, step=1)
  checkpoints.close()
  under_way = tmp_path / 'checkpoints' / '2.orbax-checkpoint-tmp'
  under_way.mkdir()
  reader = checkpoint.Checkpoints(tmp_path, read_only=True)
  restored = reader.restore(state(0))
  reader.close()
  assert restored is not None
  assert restored.step == 1
  assert under_way.exists()


def test_broken_checkpoints_are_set_aside_not_deleted(tmp_path: pathlib.Path):
  checkpoints = checkpoint.Checkpoints(tmp_path)
  for step in (1, 2):
    checkpoints.save(state(step), META, step=step)
    checkpoints.wait()
  checkpoints.set_aside_after(1)
  assert (tmp_path / 'checkpoints' / '2.broken').is_dir()
  with pytest.raises(checkpoint.CheckpointError, match=r'has checkpoints \[1\], not 2'):
    checkpoints.restore(state(0), 2)
  # The run comes to that step again.
  checkpoints.save(state(5), META, step=2)
  checkpoints.wait()
  restored = checkpoints.restore(state(0))
  checkpoints.close()
  assert restored is not None
  assert int(restored.state['n']) == 5
  # And that one breaks too.
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.set_aside_after(1)
  checkpoints.close()
  names = {path.name for path in (tmp_path / 'checkpoints').iterdir()}
  assert {'1', '2.broken'} <= names
  assert '2' not in names


def test_failed_restore_keeps_its_reason_and_prints_nothing(
  tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
):
  many = {str(number): jnp.full((30, 30), number) for number in range(30)}
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.save(many, META, step=1)
  checkpoints.wait()
  meta = tmp_path / 'checkpoints' / '1' / 'meta' / 'metadata'
  meta.write_text(meta.read_text()[:5])
  capfd.readouterr()
  skipped = pytest.warns(UserWarning, match='skipping broken checkpoint')
  with skipped, pytest.raises(checkpoint.CheckpointError, match='can be read') as error:
    checkpoints.restore(many)
  checkpoints.close()
  assert error.value.__cause__ is not None
  assert error.value.__cause__.__traceback__ is not None
  assert 'Traceback' not in capfd.readouterr().err


def test_the_first_checkpoint_is_read_back_before_the_run_goes_on(tmp_path: pathlib.Path):
  # TensorStore takes the backslash for a slash: what is saved lies elsewhere.
  checkpoints = checkpoint.Checkpoints(tmp_path / 'a\\b')
  with pytest.raises(checkpoint.StorageError, match='no checkpoint can be stored in'):
    checkpoints.save(state(1), META, step=1)
  checkpoints.close()


def test_a_flipped_bit_beside_the_arrays_is_noticed_too(tmp_path: pathlib.Path):
  checkpoints = checkpoint.Checkpoints(tmp_path)
  checkpoints.save(state(1), META, step=1)
  checkpoints.wait()
  meta = tmp_path / 'checkpoints' / '1' / 'meta' / 'metadata'
  meta.write_text(meta.read_text().replace('1.0', '3.0'))
  skipped = pytest.warns(UserWarning, match='it does not hold what was saved')
  with skipped, pytest.raises(checkpoint.CheckpointError):
    checkpoints.restore(state(0))
  checkpoints.close()
