"""Reads an artifact as what a run can start from: latents in place of the integers that it holds.

An artifact has each ring's codes, frozen. Latents that a quantizer makes these codes of are found
from their dequantized values: a quantizer does not mind by what number all are multiplied, so they
are as large as fresh ones, by whose schedule they are then trained. A code that it makes otherwise,
since rounding has moved mean, deviation or largest weight a little, is mended by moving its latent.
"""

import math
import pathlib
from typing import Any, NamedTuple

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from dpoq_jax import config as config_lib
from dpoq_jax import onion, pretrained
from dpoq_jax.core import quantizers
from dpoq_jax.core.names import ONION, path_name, statistics_collection
from dpoq_jax.deploy.artifact import manifest as manifest_lib
from dpoq_jax.deploy.artifact import rings
from dpoq_jax.network import from_config, trees
from dpoq_jax.training.experiment import Experiment

PREFIX = 'pretrained:'
"""Begins the name of a network that comes with the library, in `config.init_from`."""

# Few kernels need any; of 8-bit rings, which need most, some fifty were seen.
_MOST_MOVES = 200
BETWEEN_PATHS = ('merge', 'laterals', 'sum_logits')
"""Fields of `config.quantization` that say what a path takes from those below, if there are any."""


class Start(NamedTuple):
  """Holds what the paths of a run start from.

  Attributes:
    bits: precisions that there is something for, from the lowest up.
    variables: their parameters, with latents, and running statistics; without classifiers if these
      are of other classes.
  """

  bits: tuple[int, ...]
  variables: dict[str, Any]


def folder(init_from: str) -> pathlib.Path | None:
  """Returns the folder of the artifact that `config.init_from` names; None if that is a run.

  Raises:
    ValueError: if the library has no network of that name.
  """
  if init_from.startswith(PREFIX):
    return pretrained.folder(init_from.removeprefix(PREFIX))
  path = pathlib.Path(init_from)
  return path if (path / manifest_lib.FILE).is_file() else None


def check(experiment: Experiment, path: pathlib.Path) -> None:
  """Checks, by its manifest, that this run can start from an artifact.

  Raises:
    ArtifactError: if it has no manifest that can be read.
    ConfigError: if the bits of neither begin those of the other, or its network is another.
  """
  manifest, config = manifest_lib.read(path), experiment.config
  theirs, ours = manifest.bits, experiment.network.bits
  given = f'config.init_from={config.init_from}'
  count = min(len(theirs), len(ours))
  if theirs[:count] != ours[:count]:
    raise config_lib.ConfigError(
      f'{given}: its bits {theirs} do not begin {ours}, nor the other way round.'
    )
  wanted, found = config.quantization, manifest.quantization
  # Those that decide what tensors there are, and what they mean.
  fields = ('weight_quantizer', *(BETWEEN_PATHS if count > 1 else ()))
  differences = [
    f'quantization.{name}: {getattr(found, name)} -> {getattr(wanted, name)}'
    for name in fields
    if getattr(found, name) != getattr(wanted, name)
  ]
  if found.activation_widths[:count] != wanted.activation_widths[:count]:
    differences.append(
      f'quantization.activation_bits: {found.activation_bits} -> {wanted.activation_bits}'
    )
  if manifest.model.label != config.model.label:
    differences.insert(0, f'model: {manifest.model.label} -> {config.model.label}')
  if differences:
    raise config_lib.ConfigError(f'{given} holds another network ({"; ".join(differences)}).')


def read(experiment: Experiment, path: pathlib.Path) -> Start:
  """Reads an artifact whose manifest was checked.

  Raises:
    ArtifactError: if it cannot be read.
    ConfigError: if its tensors are not of the shapes of this run's.
  """
  manifest, config = manifest_lib.read(path), experiment.config
  bits = manifest.bits[: len(experiment.network.bits)]
  artifact = rings.load(path, bits[-1])
  quantize = from_config.weight_quantizer(config.quantization.weight_quantizer)
  classifier = _classifier(experiment)
  same_classes = manifest.class_names == experiment.dataset_facts.class_names
  kernels = trees.flatten(artifact.variables[ONION])
  expected = _shapes(experiment, len(manifest.class_names))
  variables: dict[str, Any] = {'params': {}}
  for index, precision in enumerate(bits):
    name, statistics = path_name(precision), statistics_collection(precision)
    params = trees.flatten(artifact.variables['params'][name])
    for layer, kernel in kernels.items():
      params[(*layer[:-1], 'latent')] = latents(kernel, bits, index, quantize)
    found = {('params', name, *leaf): value for leaf, value in params.items()}
    found |= {
      (statistics, *leaf): value
      for leaf, value in trees.flatten(artifact.variables[statistics]).items()
    }
    wanted = {k: v for k, v in expected.items() if k[:2] == ('params', name) or k[0] == statistics}
    if {k: v.shape for k, v in found.items()} != wanted:
      raise config_lib.ConfigError(
        f'config.init_from={config.init_from}: its tensors are not those of this network; '
        f'model.width is {manifest.model.width} there.'
      )
    if not same_classes:
      params = {leaf: value for leaf, value in params.items() if leaf not in classifier}
    variables['params'][name] = traverse_util.unflatten_dict(params)
    variables[statistics] = artifact.variables[statistics]
  return Start(bits, variables)


def latents(
  kernel: np.ndarray, bits: tuple[int, ...], index: int, quantize: quantizers.WeightQuantizer
) -> np.ndarray:
  """Returns latents of a ring of packed integers, of the deviation of fresh ones.

  Args:
    kernel: packed integers, [height, width, channels, features]; the floats of a 32-bit network are
      latents as they are.
    bits: the bit list.
    index: the ring, from 0.
    quantize: quantizer that they are for.

  Returns:
    float32, of the shape of the kernel.
  """
  width = onion.ring_widths(bits)[index]
  if width == quantizers.FLOAT_WIDTH:
    return kernel
  codes = np.asarray(onion.ring(kernel, bits, index), np.float32)
  values = np.asarray(onion.value(codes, width))
  # The deviation that `he_normal` draws. No value is 0, so neither is their square.
  scale = math.sqrt(2 / math.prod(kernel.shape[:-1])) / np.sqrt(np.mean(np.square(values)))
  found = (values * scale).astype(np.float32)
  # Half of what lies between two codes.
  step = np.float32(scale / onion.max_code(width))
  made = jax.jit(lambda each: quantize(each, width))
  for _ in range(_MOST_MOVES):
    wrong = codes - np.asarray(made(found))
    if not wrong.any():
      break
    found += step * wrong
  return found


def _classifier(experiment: Experiment) -> set[tuple[str, ...]]:
  """Returns the parameters of a path, by their names in it, that depend on the classes."""
  classes = len(experiment.dataset_facts.class_names)
  one, other = _shapes(experiment, classes), _shapes(experiment, classes + 1)
  return {name[2:] for name, shape in one.items() if shape != other[name]}


def _shapes(experiment: Experiment, classes: int) -> dict[tuple[str, ...], tuple[int, ...]]:
  """Returns the shapes of the variables of this run's network, if it had so many classes."""
  network = from_config.build(experiment.config, classes)
  images = jax.ShapeDtypeStruct((1, *experiment.dataset_facts.image_shape), jnp.uint8)
  shapes = jax.eval_shape(network.init, jax.random.key(0), images)
  return {name: leaf.shape for name, leaf in trees.flatten(shapes).items()}
