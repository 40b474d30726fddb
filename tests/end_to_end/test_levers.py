"""Runs with everything on that may improve an onion end as if nothing had stopped them."""

import pathlib
import shutil
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpoq_jax.data import in_memory
from dpoq_jax.deploy.artifact import in_jax, rings
from dpoq_jax.runtime import workdir as workdir_lib
from dpoq_jax.training import checkpoint, experiment, trained_network, transition_rate
from tests import conftest
from tests.end_to_end import runs
from tests.tiny_model import TinyNet

_ALL = (
  '--config.quantization.weight_quantizer=standardised_per_channel',
  '--config.quantization.calibrate_clips',
  '--config.quantization.sum_logits',
  '--config.objective.gradient_exponent=0.5',
  '--config.objective.companion_bits=(4, 8)',
  '--config.objective.companion_rings=2',
  '--config.objective.companion_weight=0.5',
  '--config.optimizer.latent_weight_decay=1e-4',
  '--config.optimizer.transition_rate=0.01',
)
# Two sets, as companions that are drawn teach nothing. The teacher starts after step 30.
TAUGHT = (
  *_ALL,
  '--config.objective.distillation=0.5',
  '--config.objective.teacher=companion',
  '--config.objective.teacher_start=1.6',
)
DRAWN = (
  *_ALL,
  '--config.objective.draw_companion',
  '--config.objective.distillation=0.5',
  '--config.objective.teacher_start=0.2',
)


def train(workdir: pathlib.Path, *flags: str, bits: str = '2,4') -> str:
  status, out, err = runs.train(workdir, *flags, '--config.checkpoint_every=15', bits=bits)
  assert status == 0, err
  return out


def last_state(workdir: pathlib.Path) -> Any:
  setup = experiment.build(workdir_lib.read_config(workdir))
  checkpoints = checkpoint.Checkpoints(workdir)
  restored = checkpoints.restore(setup.abstract_state())
  checkpoints.close()
  assert restored is not None
  assert restored.step == setup.total_steps
  return restored.state


@pytest.fixture(scope='session')
def levers_run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """A run with all levers that go together, to be left as it is."""
  return conftest.once(tmp_path_factory, 'levers', lambda path: train(path, *TAUGHT))


def assert_resumes(
  workdir: pathlib.Path, copy: pathlib.Path, flags: tuple[str, ...], bits: str = '2,4'
) -> None:
  """Takes a finished run back to a step in mid-epoch: the end must be the same to the last bit."""
  shutil.copytree(workdir, copy)
  assert runs.steps_saved(copy)[-2:] == [30, 44]
  shutil.rmtree(copy / 'checkpoints' / '44')
  (copy / 'summary.json').unlink()
  assert 'resuming from step 30 of 44' in train(copy, *flags, bits=bits)
  chex.assert_trees_all_equal(last_state(copy), last_state(workdir))
  assert runs.rows(copy) == runs.rows(workdir)
  assert runs.results(copy) == runs.results(workdir)


def test_a_resumed_run_ends_bit_identical(levers_run: pathlib.Path, tmp_path: pathlib.Path):
  assert_resumes(levers_run, tmp_path / 'run', TAUGHT)
  state = last_state(levers_run)
  # Every lever has moved what is its own.
  params = state.params
  assert params['path_4']['logit_scale'] != 0
  for name in ('companion_2_4', 'companion_2_8', 'companion_4_4', 'companion_4_8'):
    precision = name.split('_')[1]
    for layer in ('stem_pact', 'pact'):
      assert params[name][layer]['clip'] != params[f'path_{precision}'][layer]['clip']
  rates = [s for s in jax.tree.leaves(state.opt_state, is_leaf=is_rates) if is_rates(s)]
  assert len(rates) == 1
  assert set(rates[0].log_rate) == {'path_2', 'path_4'}
  assert all(0.001 < share < 0.5 for share in rates[0].share.values())
  # It has learned.
  assert runs.results(levers_run)['precisions']['4']['top1'] > 0.6


def is_rates(leaf: Any) -> bool:
  return isinstance(leaf, transition_rate.TransitionRateState)


@pytest.mark.nightly
def test_a_resumed_run_that_draws_companions_ends_bit_identical(tmp_path: pathlib.Path):
  train(tmp_path / 'whole', *DRAWN)
  assert_resumes(tmp_path / 'whole', tmp_path / 'run', DRAWN)


def test_what_ships_does_not_know_how_it_was_trained(
  levers_run: pathlib.Path, tmp_path: pathlib.Path
):
  source = trained_network.load(levers_run)
  assert set(source.variables['params']) == {'path_2', 'path_4'}
  done = runs.call('export', f'--workdir={levers_run}', f'--output={tmp_path / "artifact"}')
  assert done.returncode == 0, done.stderr
  read = rings.load(tmp_path / 'artifact')
  assert in_jax.network_of(read, TinyNet) == source.network
  images = jnp.asarray(in_memory.load('digits', 'test').images[:9])
  np.testing.assert_array_equal(
    source.network.apply(read.variables, images), source.network.apply(source.variables, images)
  )


@pytest.mark.nightly
def test_a_ring_is_added_to_a_run_with_companions(levers_run: pathlib.Path, tmp_path: pathlib.Path):
  test_set = in_memory.load('digits', 'test')
  before = trained_network.load(levers_run).predict(test_set).logits
  given = [flag for flag in TAUGHT if 'companion_rings' not in flag]
  flags = (*given, '--config.objective.companion_rings=3', f'--config.init_from={levers_run}')
  train(tmp_path / 'added', *flags, bits='2,4,8')
  added = trained_network.load(tmp_path / 'added')
  np.testing.assert_array_equal(added.predict(test_set).logits[:2], before)
  assert_resumes(tmp_path / 'added', tmp_path / 'run', flags, bits='2,4,8')
  # Without the sum the old precisions would be others.
  other = [flag for flag in flags if 'sum_logits' not in flag]
  status, err = runs.refused(
    'train', f'--workdir={tmp_path / "refused"}', *runs.flags(*other, bits='2,4,8')
  )
  assert status == 2
  assert 'quantization.sum_logits: True -> False' in err


@pytest.mark.nightly
def test_an_individual_network_with_a_companion_is_truncated(tmp_path: pathlib.Path):
  flags = ('--config.objective.companion_bits=(8,)', '--config.quantization.truncate_to=(2,)')
  train(tmp_path / 'run', *flags, '--config.epochs=1', bits='4')
  assert list(runs.results(tmp_path / 'run')['truncated']) == ['2']
