"""The steps of a path, read off its trace."""

from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpoq_jax.core import layers
from dpoq_jax.core.spec import PathSpec
from dpoq_jax.deploy.onnx import graphs, ranges, steps
from dpoq_jax.deploy.onnx import source as source_lib
from dpoq_jax.network import onion_network
from tests.deploy.onnx.conftest import SIZES, chain, expected, images, made, relative_error
from tests.fast import jit


@pytest.mark.parametrize('name', SIZES)
def test_steps_read_off_a_trace_are_the_network(name: str):
  network, variables, source, pixels = made(name)
  found = ranges.logits(network, variables, source.paths, pixels[:8])
  wanted = expected(made(name))[:, :8]
  # A float32 sum in another order flips a code here and there.
  assert relative_error(found, wanted) < 0.02


def test_every_path_is_traced_once_for_all_graphs():
  network, variables, _, pixels = made(bits=(2, 4), activation_bits=2)
  with mock.patch.object(steps, 'trace', wraps=steps.trace) as trace:
    source = source_lib.prepare(network, variables, pixels[:8])
    for index in range(len(network.bits)):
      graphs.path_graph(source, index)
      graphs.precision_graph(source, index)
  assert [call.args[1] for call in trace.call_args_list] == [0, 1]


def test_a_model_with_other_operations_is_refused_by_their_name():
  class Odd(nn.Module):
    spec: PathSpec = PathSpec()
    num_classes: int = 10

    @nn.compact
    def __call__(self, pixels, train=False):
      x = layers.quantizers.image_codes(pixels)
      y = layers.ConvNorm(self.spec, 4, name='conv')(x, train)
      return nn.Dense(self.num_classes)(jnp.tanh(y).mean(axis=(1, 2)))

  with pytest.raises(steps.UnsupportedStepError, match='tanh'):
    steps.trace(onion_network.Onion(Odd(), (2,)), 0, (8, 8, 3))


class Centred(nn.Module):
  """Centres its images in a way of its own.

  Attributes:
    spec: the path.
    num_classes: outputs of the classifier.
    offset: what is taken from every pixel.
    factor: what the rest is multiplied by.
  """

  spec: PathSpec = PathSpec()
  num_classes: int = 10
  offset: float = 128
  factor: float = 1

  @nn.compact
  def __call__(self, pixels, train=False):
    x = layers.Activation((pixels.astype(jnp.float32) - self.offset) * self.factor, jnp.ones(()))
    y = layers.ConvNorm(self.spec, 4, name='conv')(x, train)
    y = layers.PACT(self.spec, name='pact')(y)
    return nn.Dense(self.num_classes, name='head')(y.value.mean(axis=(1, 2)))


@pytest.mark.parametrize(
  ('offset', 'factor'), [(128, 1), (0, 1 / 128), (127.5, 1), (300, 1), (-1, 1), (128, -1)]
)
def test_images_that_are_no_bytes_around_a_byte_are_refused(offset: float, factor: float):
  network, pixels = (
    onion_network.Onion(Centred(num_classes=3, offset=offset, factor=factor), (4,)),
    images(16, (8, 8, 3)),
  )
  variables = jax.device_get(network.freeze(network.init(jax.random.key(0), jnp.asarray(pixels))))
  source = source_lib.prepare(network, variables, pixels)
  if factor > 0 and offset in (0, 128):
    wanted = np.asarray(jit(network.apply)(variables, jnp.asarray(pixels)))
    assert relative_error(chain(source, pixels), wanted) < 0.1
  else:
    with pytest.raises(steps.UnsupportedStepError, match='the offset is the value of a pixel'):
      graphs.path_graph(source, 0)


class OwnNet(nn.Module):
  """Has layers of Flax beside those of the library."""

  spec: PathSpec = PathSpec()
  num_classes: int = 10
  float_layer: bool = False

  @nn.compact
  def __call__(self, pixels, train=False):
    x = layers.quantizers.image_codes(pixels)
    x = layers.PACT(self.spec, name='pact')(layers.ConvNorm(self.spec, 4, name='conv')(x, train))
    features = nn.Conv(4, (3, 3), name='float')(x.value) if self.float_layer else x.value
    return nn.Dense(self.num_classes, use_bias=False, name='head')(features.mean(axis=(1, 2)))


def test_a_classifier_may_have_no_bias_and_layers_with_parameters_are_refused():
  shape = (8, 8, 3)
  network, pixels = onion_network.Onion(OwnNet(num_classes=3), (4,)), images(16, shape)
  variables = jax.device_get(network.freeze(network.init(jax.random.key(0), jnp.asarray(pixels))))
  source = source_lib.prepare(network, variables, pixels)
  wanted = np.asarray(jit(network.apply)(variables, jnp.asarray(pixels)))
  assert relative_error(chain(source, pixels), wanted) < 0.1
  other = onion_network.Onion(OwnNet(float_layer=True), (4,))
  with pytest.raises(steps.UnsupportedStepError, match=r'outside of ConvNorm.*"/float"'):
    steps.trace(other, 0, shape)
