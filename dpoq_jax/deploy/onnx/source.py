"""Prepares a network for its graphs: checks it, reads its steps and measures its ranges."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

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
    image_shape: (height, width, channels).
  """

  network: onion_network.Onion
  variables: Mapping[str, Any]
  paths: tuple[list[steps.Step], ...]
  ranges: Mapping[str, ranges_lib.Range]
  image_shape: tuple[int, int, int]


def prepare(
  network: onion_network.Onion, variables: Mapping[str, Any], images: np.ndarray
) -> Source:
  """Returns what the graphs of a network are made from; traces every path once.

  Args:
    network: the network.
    variables: frozen variables, NumPy arrays.
    images: uint8 [examples, height, width, channels], on which ranges are measured.

  Raises:
    ValueError: for a network that cannot be exported.
  """
  integer_layers.check(network)
  height, width, channels = images.shape[1:]
  image_shape = (height, width, channels)
  paths = tuple(steps.trace(network, index, image_shape) for index in range(len(network.bits)))
  ranges: dict[str, ranges_lib.Range] = {}
  if not integer_layers.is_float(network):
    ranges = ranges_lib.ranges(network, variables, paths, images)
  return Source(network, variables, paths, ranges, image_shape)
