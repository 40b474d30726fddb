"""Models that cannot be paths are refused, each in one line, before they are trained."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from dpoq_jax.network import onion_network
from dpoq_jax.nn import PACT, Activation, ConvNorm
from tests.odd_model import Model

IMAGES = jnp.zeros((2, 4, 4, 1), jnp.uint8)


def network(after: Callable[[Model, Activation, bool], Any], **options: Any) -> onion_network.Onion:
  return onion_network.Onion(Model(after), (2, 4), **options)


def twice(model: Model, x: Activation, train: bool) -> jax.Array:
  conv, pact = ConvNorm(model.spec, 6, name='conv'), PACT(model.spec, name='pact2')
  return model.logits(conv(pact(conv(x, train)), train))


def own_latent(model: Model, x: Activation, train: bool) -> jax.Array:
  return model.logits(x.value) * model.param('latent', nn.initializers.ones, (1, 3))


def own_state(model: Model, x: Activation, train: bool) -> jax.Array:
  return model.logits(x.value) + model.variable('state', 'count', jnp.zeros, ()).value


def one_more_below(model: Model, x: Activation, train: bool) -> jax.Array:
  return model.logits(x.value if model.spec.index else model.conv(x, train))


def one_more_above(model: Model, x: Activation, train: bool) -> jax.Array:
  return model.logits(model.conv(x, train) if model.spec.index else x.value)


def grouped(groups: int, features: int) -> Callable[[Model, Activation, bool], jax.Array]:
  return lambda m, x, train: m.logits(m.conv(x, train, groups=groups, features=features))


@pytest.mark.parametrize(
  ('after', 'message'),
  [
    (twice, '^conv is called twice: what it hands up would be overwritten'),
    (lambda m, x, train: m.logits(m.conv(nn.relu(x.value), train)), '^conv/conv is given no Activ'),
    (lambda m, x, train: jnp.mean(x.value, axis=(1, 2)), r'^Model returns floats \[2, 6\] of 2 im'),
    (lambda m, x, train: x.value[..., :3], r'it has to return logits, floats \[2, 3\]\.'),
    (lambda m, x, train: x, '^Model returns Activation of 2 images'),
    (own_latent, '^Model has a parameter latent of its own'),
    (own_state, '^Model cannot be a path: Tried to access "count"'),
    (lambda m, x, train: m.logits(m.conv(x, train, 'a/b')), 'a name must not have a / in it'),
    (lambda m, x, train: m.logits(m.conv(x, True)), '^conv is told train=True where the model is'),
    (one_more_below, r'^the kernel \[3, 3, 6, 6\] of conv is in one of two paths'),
    (one_more_above, '^the path of 4 bits has a layer conv, that of 2 bits has none'),
    # The convolution alone would take these for 6 groups.
    (grouped(4, 12), '^conv/conv: 6 channels and 12 features cannot be parted into groups=4'),
    (grouped(3, 4), 'groups=3'),
    (grouped(12, 12), 'groups=12'),
  ],
)
def test_a_model_that_cannot_be_a_path_is_refused(after: Any, message: str):
  with pytest.raises(ValueError, match=message):
    network(after).init(jax.random.key(0), IMAGES)


def test_a_model_that_never_trains_its_statistics_is_refused_when_it_is_trained():
  onion = network(lambda model, x, train: model.logits(model.conv(x, False)))
  variables = onion.init(jax.random.key(0), IMAGES)
  onion.apply(variables, IMAGES)
  with pytest.raises(ValueError, match=r'^conv is told train=False where the model is told True'):
    onion.apply_and_update(variables, IMAGES)


def test_a_layer_of_the_name_of_the_scale_of_logits_is_refused_where_there_is_one():
  def after(model: Model, x: Activation, train: bool) -> jax.Array:
    return nn.Dense(3, name='logit_scale')(jnp.mean(x.value, axis=(1, 2)))

  network(after).init(jax.random.key(0), IMAGES)
  with pytest.raises(ValueError, match=r'^Model has a layer logit_scale'):
    network(after, sum_logits=True).init(jax.random.key(0), IMAGES)


def test_random_layers_are_refused_in_a_line_when_they_are_trained():
  def after(model: Model, x: Activation, train: bool) -> jax.Array:
    return nn.Dropout(0.5, deterministic=not train)(model.logits(x.value))

  onion = network(after)
  variables = onion.init(jax.random.key(0), IMAGES)
  with pytest.raises(ValueError, match=r'^Model cannot be a path: Dropout_0 needs PRNG for "drop'):
    jax.eval_shape(onion.apply_and_update, variables, IMAGES)
