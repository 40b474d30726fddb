"""Runs what the onion is compared with: float kernels that all precisions share, as in AdaBits.

`SharedNetwork` trains them for all precisions at once (Jin, Yang, Liao, arXiv:1912.09666); a higher
precision reuses nothing that a lower one computed.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp

from dpoq_jax import onion
from dpoq_jax.core.names import ONION, path_name, statistics_collection
from dpoq_jax.network import checks, trees
from dpoq_jax.network.gradient_scale import GradientScale, whole_gradient
from dpoq_jax.network.onion_network import Onion
from dpoq_jax.network.trainable import Laterals, PathOutput, Variables
from dpoq_jax.network.truncation import truncate_kernel

_SHARED = 'shared'


@dataclasses.dataclass(frozen=True)
class SharedNetwork:
  """Runs individual networks that share kernels and classifier, and nothing else.

  Normalisation and clips are switchable: each precision has its own. A forward pass at one
  precision is one ordinary network; it hands nothing up, so a higher precision starts anew.

  Variables of a network of 2 and 4 bits:

      params:         {shared: {...latents, head}, path_2: {...gamma, beta, clips}, path_4: {...}}
      psbn_2, psbn_4: running mean and variance
      onion:          {layer: {kernel}}   replaces the latents once frozen

  Attributes:
    networks: one individual network for each precision, of increasing bits.
    nested: whether each precision's codes are the highest one's, truncated (its weight quantizer
      has to floor). They are then kept as integers; else as floats, which are quantized anew for
      each precision.

  Raises:
    ValueError: if a network has several precisions, or their bits do not increase.
  """

  networks: tuple[Onion, ...]
  nested: bool

  def __post_init__(self) -> None:
    if any(len(each.bits) != 1 for each in self.networks):
      raise ValueError('each network has one precision.')
    onion.check_bits(self.bits)

  @property
  def bits(self) -> tuple[int, ...]:
    """Returns the precisions."""
    return tuple(each.bits[0] for each in self.networks)

  def init(self, key: jax.Array, images: jax.Array) -> dict[str, Any]:
    """Returns fresh variables, kernels and classifier as an individual network of this key has."""
    variables: dict[str, Any] = {'params': {}}
    for each, precision in zip(self.networks, self.bits, strict=True):
      created = each.init(key, images)
      name, statistics = path_name(precision), statistics_collection(precision)
      own, shared = trees.split(created['params'][name], trees.is_switchable)
      variables['params'] |= {name: own, _SHARED: shared}
      variables[statistics] = created[statistics]
    return variables

  def variables_of_path(self, variables: Variables, index: int) -> dict[str, Any]:
    """Returns the variables of the individual network `index`, taken out of `variables`."""
    precision = self.bits[index]
    name, statistics = path_name(precision), statistics_collection(precision)
    params = trees.merge(variables['params'][_SHARED], variables['params'][name])
    own: dict[str, Any] = {'params': {name: params}, statistics: variables[statistics]}
    if ONION in variables:
      own[ONION] = jax.tree.map(lambda stored: self._kernel(stored, index), variables[ONION])
    return own

  def run_path(
    self,
    variables: Variables,
    index: int,
    images: jax.Array,
    laterals: Laterals | None = None,
    *,
    train: bool = False,
  ) -> PathOutput:
    """Runs the network at one precision; see `Onion.run_path`. No laterals are read or written."""
    del laterals
    own = self.variables_of_path(variables, index)
    return self.networks[index].run_path(own, 0, images, train=train)._replace(laterals={})

  def apply(
    self,
    variables: Variables,
    images: jax.Array,
    train: bool = False,
    precisions: Sequence[int] | None = None,
  ) -> jax.Array:
    """Returns the logits of the precisions asked for; see `Onion.apply`."""
    logits, _ = self.apply_and_update(variables, images, precisions, train=train)
    return logits

  def apply_and_update(
    self,
    variables: Variables,
    images: jax.Array,
    precisions: Sequence[int] | None = None,
    *,
    train: bool = True,
    gradient_scale: GradientScale = whole_gradient,
    fixed: int = 0,
    key: jax.Array | None = None,
  ) -> tuple[jax.Array, dict[str, Any]]:
    """Returns the logits and the running statistics, updated; see `Onion.apply_and_update`.

    No path hands anything up that `gradient_scale` could scale, and none can be fixed alone.

    Raises:
      ValueError: for precisions that this network does not have, or fixed paths.
    """
    del gradient_scale, key
    wanted = checks.check_precisions(precisions, self.bits)
    if fixed:
      raise ValueError('precisions that share their weights cannot be fixed one by one.')
    outputs = [
      self.run_path(variables, self.bits.index(precision), images, train=train)
      for precision in wanted
    ]
    logits = jnp.stack([output.logits for output in outputs])
    statistics = {name: s for output in outputs for name, s in output.statistics.items()}
    return logits, statistics

  def freeze(self, variables: Variables) -> dict[str, Any]:
    """Moves the kernels out of the parameters, as the integers they share if they are nested.

    Raises:
      ValueError: if `variables` are frozen already.
    """
    checks.check_latents(variables)
    latents, rest = trees.split(variables['params'][_SHARED], lambda path: path[-1] == 'latent')
    kernels = {}
    for path, latent in trees.flatten(latents).items():
      kernels[*path[:-1], 'kernel'] = self._stored(latent)
    params = {**variables['params'], _SHARED: rest}
    return {**variables, 'params': params, ONION: traverse_util.unflatten_dict(kernels)}

  def stored_bytes(self, frozen: Variables) -> dict[int, int]:
    """Returns the size of what serves each precision and those below; see `Onion.stored_bytes`.

    Floats that are quantized anew for each precision are kept whole for every one of them.
    """
    weights = sum(kernel.size for kernel in jax.tree.leaves(frozen[ONION]))
    floats = _bytes(frozen['params'][_SHARED])
    sizes = {}
    for precision in self.bits:
      floats += _bytes(frozen['params'][path_name(precision)])
      floats += _bytes(frozen[statistics_collection(precision)])
      sizes[precision] = -(-weights * (precision if self.nested else 32) // 8) + floats
    return sizes

  def _stored(self, latent: Any) -> jax.Array:
    highest = self.networks[-1]
    return _packed(highest, latent) if self.nested else latent

  def _kernel(self, stored: jax.Array, index: int) -> jax.Array:
    """Returns the packed integers of one precision."""
    return (
      truncate_kernel(stored, self.bits[-1], self.bits[index])
      if self.nested
      else _packed(self.networks[index], stored)
    )


def _packed(network: Onion, latent: jax.Array) -> jax.Array:
  (bits,) = network.bits
  return onion.pack([network.options.weight_quantizer(latent, bits)], (bits,))


def _bytes(tree: Any) -> int:
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
