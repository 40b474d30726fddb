"""A small network, frozen and written as an artifact."""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpoq_jax import config as config_lib
from dpoq_jax.core.names import LOGIT_SCALE
from dpoq_jax.deploy.artifact import rings
from dpoq_jax.deploy.artifact.manifest import Source
from dpoq_jax.network import from_config, onion_network
from tests.conftest import once
from tests.fast import jit

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)

RESNET = config_lib.Model(depth=8, width=4)
TINY_NET = config_lib.Model(name='tests.tiny_model:TinyNet', depth=None, width=4)


class Frozen(NamedTuple):
  """Holds a network, its variables, and what its artifact says of it."""

  network: onion_network.Onion
  variables: dict[str, Any]
  known: dict[str, Any]


def frozen(
  bits: tuple[int, ...],
  model: config_lib.Model = RESNET,
  companion_bits: tuple[int, ...] = (),
  **quantization: Any,
) -> Frozen:
  """Makes a frozen network whose statistics have seen a batch; no scale of what is below is 0."""
  config = config_lib.Config(
    model=model,
    quantization=config_lib.Quantization(bits=bits, shift_init=0.3, **quantization),
    objective=config_lib.Objective(companion_bits=companion_bits),
  )
  network = from_config.build(config, 5)
  assert isinstance(network, onion_network.Onion)
  trainable = from_config.build_trainable(config, 5)
  images = jnp.asarray(IMAGES)
  variables = jit(trainable.init)(jax.random.key(0), images)
  for params in variables['params'].values():
    if LOGIT_SCALE in params:
      params[LOGIT_SCALE] += 0.7
  update = jit(lambda variables: trainable.apply_and_update(variables, images)[1])
  statistics = update(variables)
  known = {
    'model': config.model,
    'quantization': config.quantization,
    'class_names': tuple('abcde'),
    'image_shape': (8, 8, 3),
    'source': Source(dataset='digits', step=7),
  }
  return Frozen(network, jax.device_get(network.freeze({**variables, **statistics})), known)


@pytest.fixture(scope='session')
def trained() -> Frozen:
  return frozen((2, 4, 8))


@pytest.fixture(scope='session')
def folder(tmp_path_factory: pytest.TempPathFactory, trained: Frozen) -> pathlib.Path:
  """Returns the artifact of `trained`, which tests must not change."""

  def make(path: pathlib.Path) -> None:
    rings.write(path, trained.variables, top1={2: 0.5, 4: 0.6, 8: 0.7}, **trained.known)

  return once(tmp_path_factory, 'artifact', make)
