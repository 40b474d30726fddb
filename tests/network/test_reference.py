"""The whole onion against a second one in NumPy, written from the paper alone."""

import functools
from typing import Any, get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpoq_jax import config, models
from dpoq_jax.core.spec import LayerOptions
from dpoq_jax.network import onion_network
from dpoq_jax.network.gradient_scale import scale_of_mode
from tests.fast import jit

CLASSES = 5
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)


def build(bits: tuple[int, ...], activation_bits: int = 8, **options: Any) -> onion_network.Onion:
  model = models.CifarResNet(num_classes=CLASSES, depth=8, width=4)
  return onion_network.Onion(model, bits, activation_bits, options=LayerOptions(**options))


def scrambled(variables: Any) -> Any:
  """No parameter or statistic at its initial value: all positive, from 0.5 to 1.5 apart."""
  generator = np.random.default_rng(1)

  def scramble(path, leaf):
    if 'latent' in jax.tree_util.keystr(path):
      return leaf
    drawn = jnp.asarray(generator.uniform(0.5, 1.5, leaf.shape), leaf.dtype)
    return drawn if leaf.ndim < 2 else leaf * drawn

  return jax.tree_util.tree_map_with_path(scramble, variables)


def convolve(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
  x = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
  windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
  return np.einsum('bxychw,hwcf->bxyf', windows[:, ::stride, ::stride], kernel)


class ReferencePath:
  """One path of a ResNet-8 with PSBN; `laterals[layer]` lists what the paths so far handed up."""

  def __init__(self, bits, index, activation_bits, variables, laterals, train):
    self.params = variables['params'][f'path_{bits[index]}']
    self.statistics = variables[f'psbn_{bits[index]}']
    self.lower, self.laterals, self.train = bits[:index], laterals, train
    self.levels = 2 ** (bits[index] - (bits[index - 1] if index else 0)) - 1
    self.top = 2**activation_bits - 1

  def conv_norm(self, params, statistics, layer, x, stride=1):
    squashed = np.tanh(params['conv']['latent'])
    codes = np.rint((squashed / np.abs(squashed).max() / 2 + 0.5) * self.levels)
    y = convolve(x, 2 * codes / self.levels - 1, stride)
    mean, var = statistics['norm']['mean'], statistics['norm']['var']
    if self.train:
      mean, var = y.mean((0, 1, 2)), y.var((0, 1, 2))
    z = (y - mean) / np.sqrt(var + 1e-5)
    out = params['norm']['scale'] * z + params['norm']['bias']
    for precision, lateral in zip(self.lower, self.laterals.setdefault(layer, []), strict=True):
      out = out + params['norm'][f'shift_from_{precision}'] * lateral
    self.laterals[layer].append(z)
    return out

  def pact(self, params, x):
    clip = params['clip']
    return np.rint(np.clip(x, 0, clip) * self.top / clip) * clip / self.top

  def __call__(self, images):
    params, statistics = self.params, self.statistics
    x = (images.astype(np.float64) - 128) / 128
    x = self.conv_norm(params['stem'], statistics['stem'], 'stem', x)
    x = self.pact(params['stem_pact'], x)
    for name, stride in (('stage1_block1', 1), ('stage2_block1', 2), ('stage3_block1', 2)):
      p, s = params[name], statistics[name]
      y = self.conv_norm(p['conv1'], s['conv1'], f'{name}/conv1', x, stride)
      y = self.pact(p['pact1'], y)
      y = self.conv_norm(p['conv2'], s['conv2'], f'{name}/conv2', y)
      # Identity across a stride: subsampled, half of the new channels zeros on each side.
      shortcut = np.zeros_like(y)
      first = (y.shape[-1] - x.shape[-1]) // 2
      shortcut[..., first : first + x.shape[-1]] = x[:, ::stride, ::stride]
      x = self.pact(p['pact2'], y + shortcut)
    return x.mean((1, 2)) @ params['head']['kernel'] + params['head']['bias']


@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize(('bits', 'activation_bits'), [((2, 4, 8), 8), ((1, 2), 2)])
def test_logits_equal_those_of_the_reference(bits, activation_bits: int, train: bool):
  with jax.enable_x64(True):
    network = build(bits, activation_bits, compute_dtype=jnp.float64)
    variables = scrambled(network.init(jax.random.key(0), jnp.asarray(IMAGES)))
    run = jit(functools.partial(network.apply, train=train))
    logits = run(variables, jnp.asarray(IMAGES))
    variables, laterals = jax.tree.map(np.asarray, variables), {}
    for index in range(len(bits)):
      path = ReferencePath(bits, index, activation_bits, variables, laterals, train)
      expected = path(IMAGES)
      assert expected.std() > 0.01
      np.testing.assert_allclose(logits[index], expected, rtol=1e-9, atol=1e-9)


def test_bfloat16_logits_equal_float32_ones():
  # 36 to 144 products of at most 255 * 255: every convolution is exact, the rest is float32.
  # Op by op, since XLA rounds what it fuses differently in different programs.
  variables = scrambled(build((2, 4, 8)).init(jax.random.key(0), jnp.asarray(IMAGES)))
  logits = [
    build((2, 4, 8), compute_dtype=dtype).apply(variables, jnp.asarray(IMAGES))
    for dtype in (jnp.float32, jnp.bfloat16)
  ]
  assert logits[1].dtype == jnp.float32
  chex.assert_trees_all_equal(*logits)


def test_gradient_scales_are_those_of_equation_6():
  modes = get_args(config.GradientMode)
  assert set(modes) == {'scaled', 'joint', 'separate'}
  scales = {mode: scale_of_mode(mode) for mode in modes}
  pairs = [(2, 4), (2, 16), (4, 8), (8, 16)]
  assert [scales['scaled'](*pair) for pair in pairs] == [0.5, 0.125, 0.5, 0.5]
  assert [scales['joint'](*pair) for pair in pairs] == [1.0] * 4
  assert [scales['separate'](*pair) for pair in pairs] == [0.0] * 4


def test_a_lower_path_does_not_depend_on_how_many_are_above():
  key, images = jax.random.key(0), jnp.asarray(IMAGES)
  small, large = (build(bits).init(key, images) for bits in ((2,), (2, 4)))
  chex.assert_trees_all_equal(small['params']['path_2'], large['params']['path_2'])
  # Every path draws latents of its own.
  two, four = (large['params'][name]['stem']['conv']['latent'] for name in ('path_2', 'path_4'))
  assert np.all(two != four)
