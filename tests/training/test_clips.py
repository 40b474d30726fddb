"""Clips that are chosen from the first batch."""

import dataclasses
import functools
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpoq_jax import config as config_lib
from dpoq_jax.core import layers
from dpoq_jax.core.spec import LayerOptions
from dpoq_jax.network.companions import Companions
from dpoq_jax.network.onion_network import Onion
from dpoq_jax.training import clips, experiment, warm_start
from tests.fast import jit
from tests.tiny_model import TinyNet

IMAGES = jnp.asarray(np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1), dtype=np.uint8))


def quantized(x: np.ndarray, clip: float, bits: int, signed: bool) -> np.ndarray:
  top = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
  return np.rint(np.clip(x, -clip if signed else 0, clip) * top / clip) * clip / top


@pytest.mark.parametrize(
  ('bits', 'signed'), [(1, False), (2, False), (4, False), (8, False), (2, True), (8, True)]
)
def test_the_clip_is_that_of_least_error_on_the_grid(bits: int, signed: bool):
  x = np.random.default_rng(bits).standard_t(5, 3000)
  wanted = x if signed else np.maximum(x, 0)
  grid = np.abs(wanted).max() * np.arange(1, 51) / 50
  errors = [np.mean((quantized(x, clip, bits, signed) - wanted) ** 2) for clip in grid]
  with jax.enable_x64(True):
    found = clips.least_error_clip(jnp.asarray(x), bits, signed=signed)
  np.testing.assert_allclose(found, grid[np.argmin(errors)], rtol=1e-12)
  # Neither end of the grid, which would decide in place of the data.
  assert 0 < np.argmin(errors) < 49 or bits == 8


def onion(activation_bits: Any = (2, 4, 8), **options: Any) -> Onion:
  options = {'shift_init': 0.3, **options}
  return Onion(TinyNet(width=2), (2, 4, 8), activation_bits, LayerOptions(**options))


def seen(network: Onion, variables: Any, fixed: int = 0) -> dict[str, jax.Array]:
  """What comes into each activation of each path in training, by path and layer."""
  found: dict[str, jax.Array] = {}
  laterals: dict[str, Any] = {}
  for index, precision in enumerate(network.bits):

    def note(call: Any, args: Any, kwargs: Any, context: Any, name: str = f'path_{precision}'):
      if isinstance(context.module, layers.PACT):
        found[f'{name}/{context.module.name}'] = args[0]
      return call(*args, **kwargs)

    with nn.intercept_methods(note):
      output = network.run_path(variables, index, IMAGES, laterals, train=index >= fixed)
    laterals |= output.laterals
  return found


@pytest.mark.parametrize('fixed', [0, 2])
def test_each_clip_suits_what_the_clips_before_it_let_through(fixed: int):
  network = Companions(onion(), (8,), rings=3)
  variables = jit(network.init)(jax.random.key(0), IMAGES)
  # Running statistics that evaluation differs by, as of paths that were trained.
  variables = {
    name: tree if name == 'params' else jax.tree.map(lambda leaf: leaf + 0.5, tree)
    for name, tree in variables.items()
  }
  calibrate = jit(functools.partial(clips.calibrate, network, fixed=fixed))
  calibrated = calibrate(variables, IMAGES)
  inputs = jit(functools.partial(seen, network.network, fixed=fixed))(calibrated)
  assert len(inputs) == 6
  for name, x in inputs.items():
    path, layer = name.split('/')
    precision = int(path.removeprefix('path_'))
    clip = calibrated['params'][path][layer]['clip']
    if network.bits.index(precision) < fixed:
      assert clip == variables['params'][path][layer]['clip']
      continue
    # Activations here are as wide as the precision.
    np.testing.assert_allclose(clip, clips.least_error_clip(x, precision), rtol=1e-5)
    assert clip != variables['params'][path][layer]['clip']
    companion = calibrated['params'][f'companion_{precision}_8']
    assert companion[layer]['clip'] == clip
  # Nothing else changed.
  unclipped = jax.tree_util.tree_map_with_path(
    lambda path, leaf: None if path[-1].key == 'clip' else leaf, (variables, calibrated)
  )
  chex.assert_trees_all_equal(*unclipped)
  chex.assert_trees_all_equal(calibrate(variables, IMAGES), calibrated)


def test_float_activations_have_no_clips():
  network = onion((8, 32, 8))
  variables = jit(network.init)(jax.random.key(0), IMAGES)
  calibrated = jit(functools.partial(clips.calibrate, network))(variables, IMAGES)
  assert jax.tree.structure(calibrated) == jax.tree.structure(variables)
  assert 'pact' not in calibrated['params']['path_4']


def test_where_nothing_comes_in_the_clip_stays():
  network = Onion(TinyNet(width=2), (2,), 8)
  variables = jit(network.init)(jax.random.key(0), IMAGES)
  norm = variables['params']['path_2']['conv']['norm']
  norm['bias'] = norm['bias'] - 100
  calibrate = jit(functools.partial(clips.calibrate, network))
  calibrated = calibrate(variables, IMAGES)['params']['path_2']
  assert calibrated['pact']['clip'] == 6
  assert calibrated['stem_pact']['clip'] != 6


def test_every_process_finds_the_clips_of_the_whole_first_batch(monkeypatch: pytest.MonkeyPatch):
  setup = experiment.build(
    config_lib.Config(
      data=config_lib.Data(batch_size=48),
      model=config_lib.Model(name='tests.tiny_model:TinyNet', depth=None, width=2),
      quantization=config_lib.Quantization(bits=(2, 4), calibrate_clips=True),
    )
  )
  images = jnp.asarray(setup.train_set.take(setup.order.examples(0)).images)
  fresh = setup.create_state()
  expected = jax.jit(lambda variables: clips.calibrate(setup.network, variables, images))
  found, fixed = warm_start.initial_state(setup)
  assert fixed == 0
  chex.assert_trees_all_equal(found.params, expected(fresh.variables)['params'])
  assert found.params['path_2']['pact']['clip'] != fresh.params['path_2']['pact']['clip']
  # As the second of three processes, whose share is other images.
  share = dataclasses.replace(setup.order, process=1, processes=3)
  monkeypatch.setattr(experiment.Experiment, 'order', share)
  chex.assert_trees_all_equal(warm_start.initial_state(setup)[0].params, found.params)
  # A batch that is meant for many devices is cut: this process has but one.
  monkeypatch.setattr(warm_start, '_CALIBRATION_EXAMPLES', 5)
  fewer = jax.jit(lambda variables: clips.calibrate(setup.network, variables, images[:5]))
  chex.assert_trees_all_equal(
    warm_start.initial_state(setup)[0].params, fewer(fresh.variables)['params']
  )
