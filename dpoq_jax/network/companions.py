"""Trains the lowest rings of an onion at another width too, a higher one as a rule.

The gradient of a latent that is quantized to 2 bits is that of a network far from the float one.
So in training alone the same latents also run at, say, 8 bits: as a path with normalisations and
clips of its own, the laterals that their path received, and its classifier. Such a companion hands
nothing up, and is gone from what ships. It is ours in this form. Relatives: precisions that share
float kernels (AdaBits, arXiv:1912.09666), a full-precision module that is trained beside a
quantized network and dropped (Zhuang et al., CVPR 2020, arXiv:1903.11236), quantized blocks within
a full-precision network (arXiv:2412.15846).
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from dpoq_jax import onion
from dpoq_jax.core.names import companion_name, path_name, statistics_collection
from dpoq_jax.core.spec import Merge
from dpoq_jax.network import checks, trees
from dpoq_jax.network.gradient_scale import GradientScale, whole_gradient
from dpoq_jax.network.onion_network import Onion
from dpoq_jax.network.trainable import Laterals, PathOutput, Variables


@dataclasses.dataclass(frozen=True)
class Companions:
  """Runs an onion as it is trained: its paths, and companions of its lowest rings.

  Variables are those of the onion, and `params: {companion_B_W: {gamma, beta, clips}}`, without
  running statistics, since companions run in training alone. All methods but `init` and
  `apply_and_update` are the onion's, which does not see the companions.

  Attributes:
    network: the onion.
    widths: bits that latents are quantized to; each ring has a companion of every width. That they
      are more than those of a ring is not checked: at 8, the 8-bit ring of (2, 4, 8, 16) has one of
      its own width, which differs from its path by normalisations and clips alone.
    rings: number of the lowest rings that have companions.
    draw: whether each step runs one companion, drawn at random, in place of all.

  Raises:
    ValueError: if the onion has fewer rings, its compute dtype would round a companion's codes, or
      it merges integers into one, which a companion would make too wide.
  """

  network: Onion
  widths: tuple[int, ...]
  rings: int = 1
  draw: bool = False

  def __post_init__(self) -> None:
    if not 1 <= self.rings <= len(self.bits):
      raise ValueError(f'companion_rings={self.rings}: the onion has {len(self.bits)} rings.')
    for width in self.widths:
      checks.check_width('companion_bits', width, self.network.options.compute_dtype)
    if self.network.options.merge is Merge.VANILLA:
      for index, width in self.pairs:
        # Floats are wider than any integer.
        if index > 0 and self.bits[index - 1] + width > onion.MAX_BITS:
          raise ValueError(
            f'companion_bits={width}: the vanilla merge makes one integer of it and the '
            f'{self.bits[index - 1]} bits below, of {onion.MAX_BITS} bits at most; give fewer, '
            'companion_rings=1, or merge=psbn.'
          )

  @property
  def bits(self) -> tuple[int, ...]:
    """Returns the precisions of the onion."""
    return self.network.bits

  @property
  def pairs(self) -> list[tuple[int, int]]:
    """Returns the path and the width of each companion, in the order in which they are trained."""
    return [(index, width) for index in range(self.rings) for width in self.widths]

  def init(self, key: jax.Array, images: jax.Array) -> dict[str, Any]:
    """Returns fresh variables: those of the onion, and of each companion."""
    variables = self.network.init(key, images)
    for index, width in self.pairs:
      precision = self.bits[index]
      # Normalisations and clips start as those of the path do.
      own, _ = trees.split(variables['params'][path_name(precision)], trees.is_switchable)
      variables['params'][companion_name(precision, width)] = jax.tree.map(jnp.copy, own)
    return variables

  def run_path(
    self,
    variables: Variables,
    index: int,
    images: jax.Array,
    laterals: Laterals | None = None,
    *,
    train: bool = False,
  ) -> PathOutput:
    """Runs one path, reusing what the paths below it computed; see `Onion.run_path`."""
    return self.network.run_path(variables, index, images, laterals, train=train)

  def run_companion(
    self, variables: Variables, index: int, width: int, images: jax.Array, laterals: Laterals
  ) -> jax.Array:
    """Returns the logits of a companion in training, [batch, num_classes].

    Args:
      variables: trained, not frozen.
      index: path whose latents and classifier it runs.
      width: bits that the latents are quantized to; 32 is the latents themselves.
      images: uint8 [batch, height, width, channels].
      laterals: what that path received; where the network sums logits, those of the path below too.
    """
    precision, module = self.bits[index], self.network.path(index)
    spec = dataclasses.replace(module.spec, companion_width=width)
    params = trees.merge(
      variables['params'][path_name(precision)],
      variables['params'][companion_name(precision, width)],
    )
    # Read by no layer in training, but there must be some.
    statistics = statistics_collection(precision)
    collections = {**laterals, 'params': params, statistics: variables[statistics]}
    logits, _ = module.clone(spec=spec).apply(collections, images, True, mutable=[])
    return self.network.summed(logits, params, index, laterals)

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
    """Returns logits and updated running statistics; see `Onion.apply_and_update`.

    In training, the logits of the companions follow those of the precisions, in the order of
    `pairs`, without those of fixed paths. If companions are drawn, those of the one drawn follow.

    Args:
      variables: trained, not frozen.
      images: uint8 [batch, height, width, channels].
      precisions: all of them, or None; in evaluation, the bits wanted.
      train: whether it is a step of training.
      gradient_scale: lambda(b_j, b_k) of eq. 6, for what paths and companions received alike.
      fixed: number of the lowest paths that are not trained.
      key: PRNG key that companions are drawn with.

    Raises:
      ValueError: for some of the precisions in training, or for no key if companions are drawn.
    """
    if not train:
      return self.network.apply_and_update(variables, images, precisions, train=False)
    if precisions is not None and tuple(precisions) != self.bits:
      raise ValueError(
        f'precisions={precisions}: companions are trained beside all of {self.bits}.'
      )
    logits: list[jax.Array] = []
    statistics: dict[str, Any] = {}
    received: list[Laterals] = []
    paths = self.network.run_paths(
      variables, images, len(self.bits) - 1, train=True, gradient_scale=gradient_scale, fixed=fixed
    )
    for _, laterals, output in paths:
      logits.append(output.logits)
      statistics |= output.statistics
      received.append(laterals)
    companions = [
      functools.partial(self.run_companion, variables, index, width, images, received[index])
      for index, width in self.pairs
      if index >= fixed
    ]
    if self.draw and companions:
      if key is None:
        raise ValueError('companions are drawn with a key.')
      drawn = jax.random.randint(key, (), 0, len(companions))
      logits.append(jax.lax.switch(drawn, companions))
    else:
      logits += [run() for run in companions]
    return jnp.stack(logits), statistics

  def freeze(self, variables: Variables) -> dict[str, Any]:
    """Turns the latents into the shared integers, and drops the companions; see `Onion.freeze`."""
    return self.network.freeze(variables)

  def stored_bytes(self, frozen: Variables) -> dict[int, int]:
    """Returns the size of the network cut at each precision; see `Onion.stored_bytes`."""
    return self.network.stored_bytes(frozen)
