"""Every model: size as published, and the onion's promises."""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpoq_jax import models
from dpoq_jax.core import layers
from dpoq_jax.core.spec import LayerOptions
from dpoq_jax.network import costs
from dpoq_jax.network.gradient_scale import scale_of_mode
from dpoq_jax.network.onion_network import Onion
from dpoq_jax.training import objective
from tests.fast import jit

# (model, its arguments, image size, classes, parameters, their tolerance, multiply-accumulates)
PUBLISHED = {
  # He et al. (arXiv:1512.03385), table 6: 0.27 M. In github.com/chenyaofo/pytorch-cifar-models:
  # 40.81 M.
  'ResNet-20': ('resnet', {'depth': 20}, 32, 10, 0.27e6, 0.005, 40.81e6),
  # The same source: 9.76 M and 153.29 M with two hidden layers of 512 in the classifier and a bias
  # in each convolution, which are taken off here.
  'VGG-11': ('vgg', {}, 32, 10, 9.76e6 - 2 * 512 * 513 - 2752, 0.001, 153.29e6 - 2 * 512**2),
  # The same source: 2.24 M and 87.98 M.
  'MobileNetV2, CIFAR': ('mobilenet', {}, 32, 10, 2.24e6, 0.002, 87.98e6),
  # Sandler et al. (arXiv:1801.04381), table 4: 3.4 M and 300 M; torchvision counts 3,504,872.
  'MobileNetV2': ('mobilenet', {'small_images': False}, 224, 1000, 3_504_872, 0, 300e6),
  # torchvision's model pages: parameters exact, 1.81, 3.66 and 4.09 G.
  'ResNet-18': ('imagenet_resnet', {'depth': 18}, 224, 1000, 11_689_512, 0, 1.81e9),
  'ResNet-34': ('imagenet_resnet', {'depth': 34}, 224, 1000, 21_797_672, 0, 3.66e9),
  'ResNet-50': ('imagenet_resnet', {'depth': 50}, 224, 1000, 25_557_032, 0, 4.09e9),
}

# Small enough to run: (model, its arguments, image size).

SMALL = {
  'resnet': ({'depth': 8, 'width': 4}, 8),
  'vgg': ({'width': 4}, 16),
  'mobilenet': ({'width': 8}, 8),
  'imagenet_resnet': ({'depth': 18, 'width': 4}, 32),
  'bottlenecks': ({'depth': 50, 'width': 4}, 32),
}
# Of 18 to 53 layers, which take long to compile: nightly.
DEEP = ('mobilenet', 'vgg', 'imagenet_resnet', 'bottlenecks')


@pytest.mark.parametrize('name', PUBLISHED)
def test_a_path_costs_what_is_published(name):
  model, arguments, size, classes, parameters, tolerance, accumulates = PUBLISHED[name]
  network = Onion(models.build(model, classes, arguments), bits=(2, 4))
  cost = costs.path_cost(network, (size, size, 3))
  assert cost.parameters == pytest.approx(parameters, rel=tolerance)
  assert cost.multiply_accumulates == pytest.approx(accumulates, rel=0.01)


def small(name: str, bits: tuple[int, ...] = (2, 4)) -> tuple[Onion, Any, jax.Array]:
  arguments, size = SMALL[name]
  model = 'imagenet_resnet' if name == 'bottlenecks' else name
  network = Onion(
    models.build(model, 3, arguments),
    bits=bits,
    options=LayerOptions(shift_init=0.3),
  )
  images = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), dtype=np.uint8)
  images = jnp.asarray(images)
  return network, jit(network.init)(jax.random.key(0), images), images


@pytest.mark.parametrize(
  'name',
  [pytest.param(name, marks=pytest.mark.nightly) if name in DEEP else name for name in SMALL],
)
def test_a_model_is_an_onion(name):
  network, variables, images = small(name)
  params, labels = variables.pop('params'), jnp.array([0, 1, 2, 0])

  def loss(params):
    logits, statistics = network.apply_and_update(
      {'params': params, **variables}, images,
      gradient_scale=scale_of_mode('scaled'),
    )  # fmt: skip
    return jnp.sum(objective.cross_entropy(logits, labels, 0.0)), statistics

  # One step trains every parameter and statistic of both paths.
  gradients, statistics = jit(jax.grad(loss, has_aux=True))(params)
  for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
    assert jnp.isfinite(gradient).all(), path
    # A clip that nothing reaches has no gradient yet.
    assert jnp.any(gradient != 0) or 'clip' in jax.tree_util.keystr(path), path
  trained = {
    'params': optax.apply_updates(params, jax.tree.map(lambda g: -0.05 * g, gradients)),
    **statistics,
  }
  # Freezing and cutting change nothing.
  apply = jit(network.apply)
  logits = apply(trained, images)
  frozen = network.freeze(trained)
  chex.assert_trees_all_equal(apply(frozen, images), logits)
  smaller, cut = network.cut(frozen, 2)
  # Path by path, as the library runs them: in one program XLA may round a lower path otherwise.
  chex.assert_trees_all_equal(smaller.apply(cut, images), network.apply(frozen, images)[:1])


class OwnNet(models.CifarResNet):
  """Stands for a user's own class."""


def test_a_class_is_a_model_by_its_name():
  own = models.build(f'{OwnNet.__module__}:OwnNet', 3, {'depth': 8, 'width': 4})
  network = Onion(own, bits=(2, 4))
  path = network.path(1)
  assert type(path).__name__ == 'OwnNet'
  assert (getattr(path, 'width'), getattr(path, 'num_classes')) == (4, 3)  # noqa: B009
  known = Onion(models.build('resnet', 3, {'depth': 8, 'width': 4}), bits=(2, 4))
  assert costs.path_cost(network, (8, 8, 3)).convolutions == (
    costs.path_cost(known, (8, 8, 3)).convolutions
  )


@pytest.mark.parametrize(
  ('name', 'sizes', 'message'),
  [
    ('no_such_module:Net', {}, "No module named 'no_such_module'.*PYTHONPATH"),
    ('dpoq_jax.models:Net', {}, "has no attribute 'Net'"),
    ('dpoq_jax.models:MODELS', {}, 'no class of Linen modules'),
    ('flax.linen:Dense', {}, 'no attribute spec, which every path is given'),
    ('dpoq_jax.models:MobileNetV2', {'depth': 8}, r'no attribute depth: leave it out \(None\)'),
  ],
)
def test_what_is_no_model_is_refused(name: str, sizes: dict, message: str):
  with pytest.raises(ValueError, match=message):
    models.build(name, 3, sizes)


@pytest.mark.nightly
def test_unsigned_codes_are_pooled_and_linear_bottlenecks_are_signed():
  network, variables, images = small('mobilenet', bits=(2,))

  seen = {}

  def record(call, args, kwargs, context):
    result = call(*args, **kwargs)
    if isinstance(context.module, layers.PACT) and context.method_name == '__call__':
      seen['/'.join(context.module.path)] = result
    return result

  @jit
  def run(variables):
    with nn.intercept_methods(record):
      network.apply(variables, images)
    return {name: activation.code for name, activation in seen.items()}

  for name, codes in jax.device_get(run(variables)).items():
    signed = name.endswith('project_pact')
    assert np.abs(codes).max() <= (127 if signed else 255)
    assert (codes.min() < 0) == signed, name
    np.testing.assert_array_equal(codes, np.round(codes))
