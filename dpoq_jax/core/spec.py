"""Describes which path of which onion a layer belongs to, and the choices that all layers share."""

import dataclasses
import enum
from typing import Any

import jax.numpy as jnp

from dpoq_jax import onion
from dpoq_jax.core import quantizers


class Merge(enum.Enum):
  """Names the ways in which a path takes in what lower paths hand up."""

  PSBN = 'psbn'
  """Precision-shift batch norm (Figure 2b): normalised features, one affine map for each pair."""
  VANILLA = 'vanilla'
  """The nesting identity on convolution outputs (Figure 2a), for the ablation."""


class Laterals(enum.Enum):
  """Names the layers at which paths hand features up."""

  EVERY_LAYER = 'every_layer'
  """All layers with a normalisation, as in the paper."""
  BLOCK_ENDS = 'block_ends'
  """Those alone that end a block of the model; all others are a path's own."""


@dataclasses.dataclass(frozen=True)
class LayerOptions:
  """Holds the choices that all paths and layers of an onion share.

  Attributes:
    weight_quantizer: maps latents to codes; `quantizers.dorefa` or another `WeightQuantizer`.
    merge: how a path takes in what lower paths hand up.
    laterals: the layers at which paths hand up.
    clip_init: PACT's alpha at the start, in units of its input; None is what suits the activation
      bits of each path.
    shift_init: the precision shifts gamma_{j->k} at the start.
    momentum: weight of the old value in the running averages, in [0, 1).
    epsilon: added to the variance.
    compute_dtype: dtype of the convolutions' operands. bfloat16 is exact for rings and activations
      of at most 8 bits only.
  """

  weight_quantizer: quantizers.WeightQuantizer = quantizers.dorefa
  merge: Merge = Merge.PSBN
  laterals: Laterals = Laterals.EVERY_LAYER
  clip_init: float | None = None
  shift_init: float = 0.0
  momentum: float = 0.9
  epsilon: float = 1e-5
  compute_dtype: Any = jnp.float32

  @property
  def parameter_dtype(self) -> Any:
    """Returns the dtype of all but the convolutions' operands: at least float32."""
    is_wide = jnp.finfo(self.compute_dtype).bits > 32
    return jnp.dtype(self.compute_dtype if is_wide else jnp.float32)


@dataclasses.dataclass(frozen=True)
class PathSpec:
  """Describes which path of which onion a module belongs to; by default the float network.

  Attributes:
    bits: the bit list of the onion.
    index: which precision this path is, from 0.
    activation_bits: 1 to 16, or 32 for a plain ReLU.
    options: the choices that all paths share.
    companion_width: bits that the ring's latents are quantized to by a companion, which is run in
      training beside the path; None is the path itself.
  """

  bits: tuple[int, ...] = (quantizers.FLOAT_WIDTH,)
  index: int = 0
  activation_bits: int = quantizers.FLOAT_WIDTH
  options: LayerOptions = LayerOptions()
  companion_width: int | None = None

  @property
  def precision(self) -> int:
    """Returns the bits of the whole weight at this path, b_k."""
    return self.bits[self.index]

  @property
  def ring_width(self) -> int:
    """Returns the bits that this path adds, r_k; those of a companion if it is one."""
    if self.companion_width is not None:
      return self.companion_width
    return onion.ring_widths(self.bits)[self.index]

  @property
  def clip_init(self) -> float:
    """Returns PACT's alpha at the start: four levels want a tighter clip than 256."""
    if self.options.clip_init is not None:
      return self.options.clip_init
    return 2.0 if self.activation_bits <= 2 else 6.0
