"""Prints, as JSON, what the compiled training step of a small network all-reduces and computes.

    XLA_FLAGS=--xla_force_host_platform_device_count=N python -m tests.all_reduces

In a process of its own, as the number of devices is fixed when JAX starts.
"""

import dataclasses
import functools
import json
import math
import re

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from benchmarks import scaling
from dpoq_jax import config as config_lib
from dpoq_jax.network import from_config, onion_network
from dpoq_jax.training import optimizer
from dpoq_jax.training.train_step import create_state, make_train_step

BATCH = 16
IMAGE_SHAPE = (32, 32, 3)
CLASSES = 10


def all_reduced(program: str) -> tuple[int, int]:
  """Bytes, and operations, of the all-reduces in a compiled program."""
  size = operations = 0
  for line in program.splitlines():
    match = re.search(r'= (.*?) all-reduce(?:-start)?\(', line)
    if match:
      operations += 1
      shapes = re.findall(r'[fs]32\[([\d,]*)\]', match[1])
      size += sum(4 * math.prod(map(int, filter(None, shape.split(',')))) for shape in shapes)
  return size, operations


def main() -> None:
  """Compiles, counts, prints."""
  config = config_lib.Config(
    data=config_lib.Data(batch_size=BATCH),
    model=config_lib.Model(depth=8, width=16),
    quantization=config_lib.Quantization(bits=(2, 4)),
  )
  network = from_config.build(config, CLASSES)
  assert isinstance(network, onion_network.Onion)
  transform = optimizer.sgd(config.optimizer, 0.1)
  mesh = jax.make_mesh((jax.device_count(),), ('data',), axis_types=(AxisType.Auto,))
  split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (('data',), ()))
  batch = {
    'image': jax.ShapeDtypeStruct((BATCH, *IMAGE_SHAPE), jnp.uint8, sharding=split),
    'label': jax.ShapeDtypeStruct((BATCH,), jnp.int32, sharding=split),
  }
  create = functools.partial(create_state, network, transform)
  state = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole),
    jax.eval_shape(create, jax.random.key(0), batch['image']),
  )
  lowered = jax.jit(make_train_step(network, transform, config)).lower(state, batch)
  size, operations = all_reduced(lowered.compile().as_text() or '')
  analysis = lowered.cost_analysis()
  assert analysis is not None
  found = {
    'devices': jax.device_count(),
    'bytes': size,
    'operations': operations,
    'flops': analysis['flops'] / BATCH,
    'step': dataclasses.asdict(scaling.step_of(network, IMAGE_SHAPE)),
  }
  print(json.dumps(found))


if __name__ == '__main__':
  main()
