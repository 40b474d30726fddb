"""Says what training, evaluation and shared kernels need of a network, and names what it takes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax

from dpoq_jax.network.gradient_scale import GradientScale, whole_gradient

Variables = Mapping[str, Any]
"""Flax collections: `params`, one `psbn_B` per precision and, once frozen, `onion`."""

Laterals = Mapping[str, Any]
"""Collections `lateral_B`: what the paths run so far handed up, per layer."""


class PathOutput(NamedTuple):
  """Holds what running one path gives.

  Attributes:
    logits: [batch, num_classes].
    laterals: `{lateral_B: ...}`, what this path (alone) hands up.
    statistics: `{psbn_B: ...}`, this path's running statistics, updated if it ran in training.
  """

  logits: jax.Array
  laterals: dict[str, Any]
  statistics: dict[str, Any]


class TrainableNetwork(Protocol):
  """Describes a network of several precisions that can be trained, frozen and evaluated.

  `Onion` is one; so is `shared_kernels.SharedNetwork`, whose precisions share whole kernels. The
  methods are those of `Onion`, which says what each does.
  """

  @property
  def bits(self) -> tuple[int, ...]:
    """Returns the bit list."""
    ...

  def init(self, key: jax.Array, images: jax.Array) -> dict[str, Any]:
    """Returns fresh variables."""
    ...

  def run_path(
    self,
    variables: Variables,
    index: int,
    images: jax.Array,
    laterals: Laterals | None = None,
    *,
    train: bool = False,
  ) -> PathOutput:
    """Runs one path, reusing what the paths below it computed."""
    ...

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
    """Returns the logits and the running statistics, updated: a forward pass of training."""
    ...

  def freeze(self, variables: Variables) -> dict[str, Any]:
    """Turns latents into what ships."""
    ...

  def stored_bytes(self, frozen: Variables) -> dict[int, int]:
    """Returns the size of the network cut at each precision."""
    ...
