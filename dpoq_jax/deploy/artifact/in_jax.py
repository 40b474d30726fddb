"""Makes a network that runs in JAX of an artifact."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dpoq_jax import config as config_lib
from dpoq_jax import models
from dpoq_jax.deploy.artifact import manifest as manifest_lib
from dpoq_jax.deploy.artifact.manifest import ArtifactError
from dpoq_jax.deploy.artifact.rings import Artifact
from dpoq_jax.network import from_config, onion_network


def network_of(artifact: Artifact, model: type[nn.Module] | None = None) -> onion_network.Onion:
  """Returns the network of the precisions read; its variables are `artifact.variables`.

  Args:
    artifact: the rings read of an artifact.
    model: class of the Linen module of one path, as `network.Onion` describes it. To be given for a
      model that is not of this library, since nothing that a file names is imported.

  Raises:
    ArtifactError: if the model has to be given, or the tensors are not those of such a network.
  """
  manifest = artifact.manifest
  path = artifact.folder / manifest_lib.FILE
  config = config_lib.Config(model=manifest.model, quantization=manifest.quantization)
  if model is None and manifest.model.name not in models.MODELS:
    raise ArtifactError(f'{path}: give model={manifest.model.name}, which is not of this library.')
  images = jax.ShapeDtypeStruct((1, *manifest.image_shape), jnp.uint8)
  try:
    network = from_config.build(config, len(manifest.class_names), model)
    if not isinstance(network, onion_network.Onion):
      raise ValueError('its precisions share whole kernels')
    network = network.lowest(len(artifact.bits))
    # Shapes alone, so that a manifest cannot make this process allocate anything.
    expected = jax.eval_shape(functools.partial(_fresh, network), images)
  except (ValueError, TypeError, OverflowError) as error:
    raise ArtifactError(f'{path}: there is no such network ({error})') from None
  if _shapes(expected) != _shapes(artifact.variables):
    raise ArtifactError(
      f'{path}: its tensors are not those of a {manifest.model.label} at {artifact.bits} bits.'
    )
  return network


def _fresh(network: onion_network.Onion, images: jax.Array) -> dict[str, Any]:
  """Returns frozen variables that are not trained."""
  return network.freeze(network.init(jax.random.key(0), images))


def _shapes(tree: Any) -> dict[str, tuple[tuple[int, ...], Any]]:
  """Returns shape and dtype of every leaf, by its path."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): (leaf.shape, leaf.dtype) for path, leaf in leaves}
