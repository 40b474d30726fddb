"""Prepares a network for its graphs: checks it, reads its steps and measures its ranges."""

from collections.abc import Iterator, Mapping
import contextlib
from typing import Any, NamedTuple

import numpy as np

from dpoq_jax.deploy import export_folder
from dpoq_jax.deploy.artifact import manifest as manifest_lib
from dpoq_jax.deploy.onnx import integer_layers, steps
from dpoq_jax.deploy.onnx import ranges as ranges_lib
from dpoq_jax.network import onion_network


class Source(NamedTuple):
  """Holds what the graphs of a network are made from.

  Attributes:
    network: the network.
    variables: frozen variables, NumPy arrays.
    paths: the steps of every path, the lowest first.
    ranges: the range of every tensor, by key (`ranges.ranges`); empty for a float network.
    range_images: number of images that they were measured on.
    image_shape: (height, width, channels).
  """

  network: onion_network.Onion
  variables: Mapping[str, Any]
  paths: tuple[list[steps.Step], ...]
  ranges: Mapping[str, ranges_lib.Range]
  range_images: int
  image_shape: tuple[int, int, int]

  @property
  def measured(self) -> manifest_lib.Ranges:
    """Returns what was measured, as artifacts keep it."""
    return manifest_lib.Ranges(images=self.range_images, ends=dict(self.ranges))


def prepare(
  network: onion_network.Onion, variables: Mapping[str, Any], images: np.ndarray
) -> Source:
  """Returns what the graphs of a network are made from; traces every path once.

  Args:
    network: the network.
    variables: frozen variables, NumPy arrays.
    images: uint8 [examples, height, width, channels], on which ranges are measured.

  Raises:
    ValueError: for variables that hold latents, or a network that cannot be exported.
  """
  height, width, channels = images.shape[1:]
  source = _traced(network, variables, (height, width, channels))
  if integer_layers.is_float(network):
    return source
  with refusing_lost_numbers():
    ranges = ranges_lib.ranges(network, variables, source.paths, images)
  return source._replace(ranges=ranges, range_images=len(images))


def prepare_measured(
  network: onion_network.Onion,
  variables: Mapping[str, Any],
  image_shape: tuple[int, int, int],
  measured: manifest_lib.Ranges,
) -> Source:
  """Returns what the graphs of a network are made from, with ranges that were measured before.

  Args:
    network: the network, of all its precisions or of the lowest few.
    variables: frozen variables, NumPy arrays.
    image_shape: (height, width, channels).
    measured: what was measured, `Source.measured`.

  Raises:
    ValueError: as `prepare`, or if the ranges are those of another network.
  """
  source = _traced(network, variables, image_shape)
  if integer_layers.is_float(network):
    return source
  missing = ranges_lib.keys(network, variables, source.paths, image_shape) - measured.ends.keys()
  if missing:
    raise ValueError(f'these ranges are those of another network: {min(missing)} is missing.')
  ranges = {key: ranges_lib.Range(*ends) for key, ends in measured.ends.items()}
  return source._replace(ranges=ranges, range_images=measured.images)


@contextlib.contextmanager
def refusing_lost_numbers() -> Iterator[None]:
  """Turns what NumPy would warn of into a `ValueError`: it would be a wrong integer in a graph."""
  try:
    with np.errstate(divide='raise', over='raise', invalid='raise'):
      yield
  except FloatingPointError as error:
    raise ValueError(f'the numbers of this network have no integers ({error}).') from None


def _traced(
  network: onion_network.Onion, variables: Mapping[str, Any], image_shape: tuple[int, int, int]
) -> Source:
  """Returns a network that can be exported with its steps, without ranges."""
  export_folder.check_frozen(variables)
  integer_layers.check(network)
  paths = tuple(steps.trace(network, index, image_shape) for index in range(len(network.bits)))
  return Source(network, variables, paths, {}, 0, image_shape)
