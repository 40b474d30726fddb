"""Codes of a PACT in the trace of a model: read with their scale, or refused."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from dpoq_jax.deploy.onnx import steps
from dpoq_jax.network import onion_network
from dpoq_jax.nn import PACT, Activation
from tests.odd_model import Model


def added(model: Model, x: Activation, shortcut: jax.Array, train: bool) -> jax.Array:
  y = model.conv(x, train)
  return model.logits(PACT(model.spec, name='pact2')(y + shortcut).value)


def kinds(after: Callable[[Model, Activation, bool], Any], activation_bits: int = 8) -> list[str]:
  bits = (32,) if activation_bits == 32 else (2, 4)
  network = onion_network.Onion(Model(after), bits, activation_bits)
  return [step.kind for step in steps.trace(network, 0, (4, 4, 1))]


def test_codes_are_read_with_their_scale():
  def after(model: Model, x: Activation, train: bool) -> jax.Array:
    code = jnp.pad(x.code[:, ::2], ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = Activation(nn.max_pool(code, (2, 2), strides=(2, 2)), x.scale)
    return added(model, x, x.value, train)

  read = ['image', 'conv', 'pact', 'slice', 'pad', 'max_pool']
  assert kinds(after) == [*read, 'conv', 'add', 'pact', 'mean', 'dense']


def test_codes_of_float_activations_are_their_values():
  read = kinds(lambda m, x, train: m.logits(x.code), activation_bits=32)
  assert read == ['image', 'conv', 'pact', 'mean', 'dense']


@pytest.mark.parametrize(
  ('after', 'message'),
  [
    # In the graph these would be values, a hundredth of what the network adds up.
    (lambda m, x, train: m.logits(x.code), 'codes of a PACT without their scale, by reduce_sum'),
    (lambda m, x, train: added(m, x, x.code, train), 'without their scale, by add'),
    (
      lambda m, x, train: added(m, x, x.value.astype(jnp.int32).astype(jnp.float32), train),
      'joins its layers by convert_element_type',
    ),
    (
      lambda m, x, train: jnp.mean(nn.Dense(3, name='head')(x.value), axis=(1, 2)),
      r'a Dense \(head\) on all positions cannot be exported',
    ),
  ],
)
def test_what_a_graph_would_get_wrong_is_refused(after: Any, message: str):
  with pytest.raises(steps.UnsupportedStepError, match=message):
    kinds(after)
