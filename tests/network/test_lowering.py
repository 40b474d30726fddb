"""What accelerators are given compiles for them, as far as a machine without them can tell."""

import functools
import re
from typing import Literal

import jax
from jax import export
import jax.numpy as jnp
import pytest

from dpoq_jax import config as config_lib
from dpoq_jax.network import from_config, onion_network
from dpoq_jax.training import optimizer
from dpoq_jax.training.train_step import create_state, make_train_step

PLATFORMS = ('cuda', 'tpu')
Dtype = Literal['float32', 'bfloat16']


def config(dtype: Dtype, name: str = 'resnet', depth: int | None = 8) -> config_lib.Config:
  return config_lib.Config(
    data=config_lib.Data(batch_size=4, pad=1, flip=True),
    model=config_lib.Model(name=name, depth=depth, width=4),
    quantization=config_lib.Quantization(bits=(2, 4), compute_dtype=dtype),
  )


def abstract(settings: config_lib.Config, side: int = 8):
  """Network, optimizer, abstract state and batch."""
  network = from_config.build(settings, 10)
  assert isinstance(network, onion_network.Onion)
  transform = optimizer.sgd(settings.optimizer, 0.1)
  batch = {
    'image': jax.ShapeDtypeStruct((4, side, side, 3), jnp.uint8),
    'label': jax.ShapeDtypeStruct((4,), jnp.int32),
  }
  create = functools.partial(create_state, network, transform)
  return network, transform, jax.eval_shape(create, jax.random.key(0), batch['image']), batch


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_the_training_step_lowers(dtype: Dtype):
  settings = config(dtype)
  network, transform, state, batch = abstract(settings)
  step = jax.jit(
    make_train_step(network, transform, settings, padding=settings.data.pad), donate_argnums=0
  )
  lowered = export.export(step, platforms=PLATFORMS)(state, batch)
  assert lowered.platforms == PLATFORMS
  # The first convolution: operands of the dtype asked for, sums in float32.
  operand = {'float32': 'f32', 'bfloat16': 'bf16'}[dtype]
  types = rf'\(tensor<4x8x8x3x{operand}>, tensor<3x3x3x4x{operand}>\) -> tensor<4x8x8x4xf32>'
  assert re.search(rf'stablehlo\.convolution.*{types}', lowered.mlir_module())


@pytest.mark.parametrize(
  ('name', 'depth', 'side'),
  [('resnet', 8, 8), ('vgg', 11, 32), ('mobilenet', None, 32), ('imagenet_resnet', 18, 32)],
)
def test_the_inference_of_every_path_lowers(name: str, depth: int | None, side: int):
  network, _, state, batch = abstract(config('float32', name, depth), side)
  frozen = jax.eval_shape(network.freeze, state.variables)
  laterals: dict = {}
  for index in range(len(network.bits)):
    run = functools.partial(network.run_path, index=index)
    path = jax.jit(lambda v, images, below, run=run: run(v, images=images, laterals=below)[:2])
    lowered = export.export(path, platforms=PLATFORMS)(frozen, batch['image'], laterals)
    assert lowered.platforms == PLATFORMS
    _, handed_up = jax.tree.unflatten(lowered.out_tree, lowered.out_avals)
    laterals |= jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), handed_up)
