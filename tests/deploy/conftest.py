"""A small network, frozen and written as an artifact."""

import functools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpoq_jax import config as config_lib
from dpoq_jax.deploy.artifact import rings
from dpoq_jax.deploy.artifact.manifest import Source
from dpoq_jax.network import from_config, onion_network
from tests.conftest import once

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)


class Frozen(NamedTuple):
  """Holds a network, its variables, and what its artifact says of it."""

  network: onion_network.Onion
  variables: dict[str, Any]
  known: dict[str, Any]


def frozen(bits: tuple[int, ...], **quantization: Any) -> Frozen:
  """Makes a frozen network whose statistics have seen a batch; its lateral scales are not 0."""
  config = config_lib.Config(
    model=config_lib.Model(depth=8, width=4),
    quantization=config_lib.Quantization(bits=bits, shift_init=0.3, **quantization),
  )
  network = from_config.build(config, 5)
  assert isinstance(network, onion_network.Onion)
  images = jnp.asarray(IMAGES)
  # Programs that run once should be compiled fast.
  jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})
  variables = jit(network.init)(jax.random.key(0), images)
  update = jit(lambda variables: network.apply_and_update(variables, images)[1])
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
