"""Computes the numbers of a path's layers for integer runtimes: integers, and affine maps of them.

With PSBN (eq. 8) a layer of path k is, per channel,

    z_k = (conv(x, ring) * step - mean) / deviation
    p_k = gamma z_k + sum_j shift_j z_j + beta

An integer runtime hands up `t_k = multiplier * z_k + beta`, so that where `multiplier == gamma` one
and the same tensor is what path k goes on with and what higher paths read.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from dpoq_jax import onion
from dpoq_jax.core import quantizers
from dpoq_jax.core.names import (
  LOGIT_SCALE,
  ONION,
  path_name,
  shift_name,
  statistics_collection,
)
from dpoq_jax.core.spec import Merge
from dpoq_jax.network import onion_network

LARGEST_RATIO = 4.0
"""How many times as large as `multiplier` a shift may be.

A higher path reads `z = (t - beta) / multiplier` and multiplies it by its shift, so the rounding
error of `t` to 8 bits is multiplied by `shift / multiplier`. Where gamma has shrunk towards 0 and
were the multiplier, the error would be larger than z.
"""


@dataclasses.dataclass(frozen=True)
class Layer:
  """Holds the numbers of a `ConvNorm` of one path; vectors are float64 [features].

  Attributes:
    kernel: [height, width, channels / groups, features], odd integers (floats in a 32-bit network).
    step: weight that the integer 1 of the kernel stands for.
    mean: running mean of the normalisation.
    deviation: running deviation of the normalisation, `sqrt(var + eps)`.
    gamma: this path's own scale.
    beta: this path's bias.
    shifts: factor on `z` of each lower path that this path reads, by the index of that path.
    multiplier: factor on `z` where it is handed up.
    readers: indices of the higher paths that read what this one hands up, if any do.
  """

  kernel: np.ndarray
  step: float
  mean: np.ndarray
  deviation: np.ndarray
  gamma: np.ndarray
  beta: np.ndarray
  shifts: dict[int, np.ndarray]
  multiplier: np.ndarray
  readers: tuple[int, ...]


def check(network: onion_network.Onion) -> None:
  """Refuses a network that has no integer graph.

  Raises:
    ValueError: for a merge, rings or activations that cannot be exported.
  """
  if network.options.merge is not Merge.PSBN and len(network.bits) > 1:
    raise ValueError(f'merge={network.options.merge.value}: only psbn can be exported to ONNX.')
  if is_float(network):
    if len(network.bits) > 1:
      raise ValueError('activations of 32 bits can be exported for a single precision only.')
  elif max(network.activation_widths) > 8:
    raise ValueError(
      f'activation_bits={network.activation_bits}: int8 kernels take 8 bits at most.'
    )
  elif max(widths := onion.ring_widths(network.bits)) > 8:
    raise ValueError(f'rings of {max(widths)} bits: int8 kernels take 8 bits at most.')


def is_float(network: onion_network.Onion) -> bool:
  """Tells whether activations are floats, and with them the whole graph."""
  return quantizers.FLOAT_WIDTH in network.activation_widths


def layer(
  network: onion_network.Onion, variables: Mapping[str, Any], index: int, name: str
) -> Layer:
  """Returns the numbers of a layer of one path.

  Args:
    network: the network.
    variables: frozen variables.
    index: the path, from 0.
    name: name of the `ConvNorm`, `/` between modules.
  """
  stored, step = np.asarray(_at(variables[ONION], name)['conv']['kernel']), 1.0
  width = onion.ring_widths(network.bits)[index]
  if width != quantizers.FLOAT_WIDTH:
    codes = onion.ring(stored, network.bits, index)
    stored, step = onion.odd_integer(codes, width), 1 / onion.max_code(width)
  statistics = _vectors(_at(variables[statistics_collection(network.bits[index])], name)['norm'])
  norms = [
    _vectors(_at(variables['params'][path_name(bits)], name)['norm']) for bits in network.bits
  ]
  gamma = norms[index]['scale']
  shift = shift_name(network.bits[index])
  readers = tuple(higher for higher, norm in enumerate(norms) if shift in norm)
  read = [np.abs(norms[higher][shift]) for higher in readers]
  least = np.max(read, axis=0) / LARGEST_RATIO if read else np.zeros_like(gamma)
  return Layer(
    kernel=stored,
    step=step,
    mean=statistics['mean'],
    deviation=np.sqrt(statistics['var'] + network.options.epsilon),
    gamma=gamma,
    beta=norms[index]['bias'],
    shifts={
      lower: norms[index][shift_name(bits)]
      for lower, bits in enumerate(network.bits[:index])
      if shift_name(bits) in norms[index]
    },
    multiplier=np.where(np.abs(gamma) < least, np.copysign(least, gamma), gamma),
    readers=readers,
  )


def clip(
  network: onion_network.Onion, variables: Mapping[str, Any], index: int, name: str
) -> float:
  """Returns alpha of the PACT `name` of path `index`."""
  alpha = _at(variables['params'][path_name(network.bits[index])], name)['clip']
  # `quantizers.pact` takes no smaller one either.
  return max(float(alpha), quantizers.SMALLEST_CLIP)


def dense(
  network: onion_network.Onion, variables: Mapping[str, Any], index: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
  """Returns kernel [features, classes] and bias [classes] of the classifier of path `index`."""
  found = _at(variables['params'][path_name(network.bits[index])], name)
  kernel = np.asarray(found['kernel'], np.float32)
  # A Dense may have no bias.
  bias = found.get('bias', np.zeros(kernel.shape[-1]))
  return kernel, np.asarray(bias, np.float32)


def logit_scale(
  network: onion_network.Onion, variables: Mapping[str, Any], index: int
) -> float | None:
  """Returns the factor on the logits that path `index` adds from the path below; None if none."""
  if not network.sum_logits or index == 0:
    return None
  return float(variables['params'][path_name(network.bits[index])][LOGIT_SCALE])


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
  """Returns the quotient of two vectors, 0 where the denominator is."""
  return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0)


def _at(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
  """Returns the subtree of a module, by its name with `/` between modules."""
  for part in name.split('/'):
    tree = tree[part]
  return tree


def _vectors(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Returns the leaves of a module as float64."""
  return {name: np.asarray(leaf, np.float64) for name, leaf in tree.items()}
