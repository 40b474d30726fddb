"""Networks, and the logits of their ONNX graphs."""

from collections.abc import Iterator
import functools
import pathlib
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest

from dpoq_jax import models
from dpoq_jax.core.names import LOGIT_SCALE
from dpoq_jax.core.spec import LayerOptions
from dpoq_jax.deploy.onnx import graphs
from dpoq_jax.deploy.onnx import source as source_lib
from dpoq_jax.models import mobilenet
from dpoq_jax.network import onion_network

SIZES = {'resnet': {'depth': 8, 'width': 8}, 'vgg': {'width': 8}, 'mobilenet': {'width': 8}}
SHAPES = {'resnet': (16, 16, 3), 'vgg': (16, 16, 3), 'mobilenet': (8, 8, 3)}


def images(count: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
  """Makes blobs of colour: means of noise alone are so alike that no network tells them apart."""
  rng = np.random.default_rng(seed)
  coarse = rng.normal(128, 70, (count, 4, 4, shape[2]))
  large = np.kron(coarse, np.ones((1, shape[0] // 4, shape[1] // 4, 1)))
  return np.clip(large + rng.normal(0, 20, (count, *shape)), 0, 255).astype(np.uint8)


@pytest.fixture(autouse=True, scope='module')
def shallow_mobilenet() -> Iterator[None]:
  """Makes MobileNet shallow: untrained and deep, it answers a changed pixel with other logits."""
  stages = ((1, 16, 1, 1), (6, 16, 1, 1), (6, 24, 1, 2))
  with mock.patch.object(mobilenet, 'STAGES', stages):
    yield


class Made(NamedTuple):
  """Holds a network, what its graphs are made from, and images it has not seen."""

  network: onion_network.Onion
  variables: dict[str, Any]
  source: source_lib.Source
  images: np.ndarray


@functools.cache
def made(
  name: str = 'resnet',
  bits: tuple[int, ...] = (2, 4, 8),
  activation_bits: int | tuple[int, ...] = 8,
  gamma: float | None = None,
  sum_logits: bool = False,
) -> Made:
  """Makes a frozen network whose statistics have seen a batch; `gamma` replaces some scales."""
  network = onion_network.Onion(
    models.build(name, 10, SIZES[name]),
    bits,
    activation_bits,
    options=LayerOptions(shift_init=0.3, clip_init=2.5, momentum=0.0),
    sum_logits=sum_logits,
  )
  seen = images(64, SHAPES[name])
  jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})
  variables = jit(network.init)(jax.random.key(0), jnp.asarray(seen))
  update = jit(lambda variables: network.apply_and_update(variables, jnp.asarray(seen))[1])
  variables |= update(variables)
  for params in variables['params'].values():
    if LOGIT_SCALE in params:
      params[LOGIT_SCALE] += 2.0
  if gamma is not None:
    paths = [each for each, _ in jax.tree_util.tree_leaves_with_path(variables['params'])]
    assert any(path[-1].key == 'scale' for path in paths)
    variables = jax.tree_util.tree_map_with_path(
      lambda path, leaf: leaf.at[::3].set(gamma) if path[-1].key == 'scale' else leaf,
      variables,
    )
  frozen = jax.device_get(network.freeze(variables))
  source = source_lib.prepare(network, frozen, seen)
  return Made(network, frozen, source, images(200, SHAPES[name], seed=1))


def session(model: onnx.ModelProto, optimized: pathlib.Path | None = None) -> Any:
  """Opens a graph; writes it as the runtime has optimized it, if a file is given."""
  options = onnxruntime.SessionOptions()
  options.log_severity_level = 3
  if optimized:
    options.optimized_model_filepath = str(optimized)
  return onnxruntime.InferenceSession(
    model.SerializeToString(), options, providers=['CPUExecutionProvider']
  )


def chain(source: source_lib.Source, pixels: np.ndarray) -> np.ndarray:
  """Returns the logits [precisions, batch, classes] of the path graphs, run one after another."""
  feeds, logits = {'images': pixels}, []
  for index in range(len(source.network.bits)):
    path = session(graphs.path_graph(source, index))
    names = [each.name for each in path.get_outputs()]
    inputs = {each.name: feeds[each.name] for each in path.get_inputs()}
    outputs = dict(zip(names, path.run(None, inputs), strict=True))
    logits.append(outputs.pop('logits'))
    feeds |= outputs
  return np.stack(logits)


def expected(made: Made) -> np.ndarray:
  """Returns the logits [precisions, batch, classes] of the network."""
  jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})
  return np.asarray(jit(made.network.apply)(made.variables, made.images))


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
  """Returns the error of the worst precision: root mean square over the deviation of images."""
  error = np.sqrt(np.square(found - wanted).mean(axis=(1, 2)))
  return float((error / wanted.std(axis=1).mean(axis=1)).max())
