"""A ring added to a trained network; all paths started from a float network."""

import pathlib
import shutil

import chex
import numpy as np
import pytest

from dpoq_jax.data import in_memory
from dpoq_jax.network import onion_network
from dpoq_jax.training import trained_network
from tests.end_to_end import runs


@pytest.fixture
def lower(uninterrupted: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
  """A run of 2 and 4 bits."""
  return pathlib.Path(shutil.copytree(uninterrupted, tmp_path / 'lower'))


def test_a_ring_is_added_and_the_old_precisions_stay(lower, tmp_path):
  test_set = in_memory.load('digits', 'test')
  before = trained_network.load(lower).predict(test_set).logits
  # The activations of the new ring may have any width.
  widths = '--config.quantization.activation_bits=(8, 8, 4)'
  flags = (f'--config.init_from={lower}', '--config.checkpoint_every=5', widths)
  process = runs.start(tmp_path / 'added', *flags, bits='2,4,8')
  runs.wait_until(process, lambda: bool(runs.steps_saved(tmp_path / 'added')))
  process.kill()
  runs.finish(process)
  # Where it came from is not needed any more.
  shutil.rmtree(lower)
  status, out, err = runs.train(tmp_path / 'added', *flags, bits='2,4,8')
  assert status == 0, err
  assert 'resuming from step' in out
  added = trained_network.load(tmp_path / 'added')
  after = added.predict(test_set).logits
  np.testing.assert_array_equal(after[:2], before)
  # The new path has learned.
  assert (after[2].argmax(-1) == test_set.labels).mean() > 0.3
  assert isinstance(added.network, onion_network.Onion)
  smaller, cut = added.network.cut(added.variables, 4)
  assert smaller.bits == (2, 4)
  chex.assert_tree_all_finite(cut['params'])


@pytest.mark.parametrize(
  ('model', 'layers'),
  [
    (runs.TINY_NET, ('stem', 'conv')),
    pytest.param(runs.RESNET, ('stem', 'stage2_block1/conv2'), marks=pytest.mark.nightly),
  ],
  ids=['tiny', 'resnet'],
)
def test_all_paths_start_from_a_float_network(
  model: str, layers: tuple[str, ...], tmp_path: pathlib.Path
):
  floats = '--config.quantization.activation_bits=32'
  status, _, err = runs.train(tmp_path / 'float', floats, bits='32', model=model)
  assert status == 0, err
  flags = (
    f'--config.init_from={tmp_path / "float"}',
    '--config.optimizer.learning_rate=1e-6',
    '--config.objective.companion_bits=(8,)',
  )
  status, _, err = runs.train(tmp_path / 'run', *flags, model=model)
  assert status == 0, err
  source = trained_network.load_latents(tmp_path / 'float').variables['params']['path_32']
  ours = trained_network.load_latents(tmp_path / 'run').variables['params']
  for path in ('path_2', 'path_4'):
    for layer in layers:
      one, other = ours[path], source
      for name in layer.split('/'):
        one, other = one[name], other[name]
      np.testing.assert_allclose(one['conv']['latent'], other['conv']['latent'], atol=1e-3)
      np.testing.assert_allclose(one['norm']['scale'], other['norm']['scale'], atol=1e-3)
    np.testing.assert_allclose(ours[path]['head']['kernel'], source['head']['kernel'], atol=1e-3)
  # So does the companion, as far as it has its own.
  found, expected = ours['companion_2_8']['stem']['norm'], source['stem']['norm']
  np.testing.assert_allclose(found['scale'], expected['scale'], atol=1e-3)
  assert np.abs(expected['scale'] - 1).max() > 1e-2


@pytest.mark.parametrize(
  ('bits', 'flags', 'message'),
  [
    ('2,8', (), 'its bits (2, 4) do not begin (2, 8)'),
    ('2,4', (), 'its bits (2, 4) do not begin (2, 4)'),
    ('2', (), 'its bits (2, 4) do not begin (2,)'),
    (
      '2,4,8',
      ('--config.quantization.activation_bits=4',),
      'holds another network (quantization.activation_bits: 8 -> 4)',
    ),
    (
      '2,4,8',
      ('--config.quantization.laterals=block_ends',),
      'holds another network (quantization.laterals: every_layer -> block_ends)',
    ),
    (
      '2,4,8',
      ('--config.quantization.activation_bits=(8, 4, 8)',),
      'holds another network (quantization.activation_bits: 8 -> (8, 4, 8))',
    ),
  ],
)
def test_a_run_that_does_not_fit_is_refused(uninterrupted, tmp_path, bits, flags, message):
  flags = runs.flags(f'--config.init_from={uninterrupted}', *flags, bits=bits)
  status, err = runs.refused('train', f'--workdir={tmp_path / "run"}', *flags)
  assert status == 2
  (line,) = err.splitlines()
  assert message in line
  assert not (tmp_path / 'run').exists()


def test_no_run_to_start_from_is_one_line(tmp_path):
  flags = runs.flags('--config.init_from=nowhere')
  status, err = runs.refused('train', f'--workdir={tmp_path / "run"}', *flags)
  assert status == 2
  assert err == 'error: nowhere: there is no such folder.\n'
