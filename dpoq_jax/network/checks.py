"""Checks what a network is made of, and what it is asked for."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from dpoq_jax import onion
from dpoq_jax.core import quantizers
from dpoq_jax.core.names import ONION
from dpoq_jax.core.spec import Laterals
from dpoq_jax.network.trainable import Variables


def check_precisions(wanted: Sequence[int] | None, bits: tuple[int, ...]) -> tuple[int, ...]:
  """Returns the precisions wanted, all of `bits` for None.

  Raises:
    ValueError: for none at all, or for one that is not in the bit list.
  """
  wanted = bits if wanted is None else tuple(wanted)
  if not wanted or not set(wanted) <= set(bits):
    raise ValueError(f'precisions={wanted}: this network has {bits}.')
  return wanted


def check_widths(
  bits: tuple[int, ...], activation_bits: int | tuple[int, ...], compute_dtype: Any
) -> None:
  """Raises a ValueError if a ring or an activation is wider than can be computed exactly.

  Args:
    bits: bit list.
    activation_bits: bits of every activation, or one entry for each precision.
    compute_dtype: dtype of the operands of convolutions.
  """
  widths = {f'ring {k} of bits={bits}': w for k, w in enumerate(onion.ring_widths(bits))}
  if isinstance(activation_bits, int):
    widths['activation_bits'] = activation_bits
  else:
    for k, w in enumerate(activation_bits):
      widths[f'entry {k} of activation_bits={activation_bits}'] = w
  for name, width in widths.items():
    check_width(name, width, compute_dtype)


def check_width(name: str, width: int, compute_dtype: Any) -> None:
  """Raises a ValueError, which says `name`, if codes are wider than can be computed exactly."""
  quantizers.check_width(name, width)
  dtype = jnp.dtype(compute_dtype)
  exact = int(jnp.finfo(dtype).nmant) + 1
  if exact < width < quantizers.FLOAT_WIDTH:
    raise ValueError(
      f'{name}={width}: {dtype} holds integers of up to {exact} bits exactly; use float32.'
    )


def check_latents(variables: Variables) -> None:
  """Raises a ValueError if variables are frozen already, so that they hold no latents."""
  if ONION in variables:
    raise ValueError('these variables are frozen already: they hold no latents.')


def check_shared(
  statistics: Mapping[str, Any] | None,
  features: Mapping[str, Any] | None,
  model: nn.Module,
  bits: tuple[int, ...],
  laterals: Laterals,
) -> None:
  """Raises a ValueError, which says why, if the paths of a model would share nothing.

  Args:
    statistics: running statistics of a path.
    features: what it hands up.
    model: model of the path.
    bits: bit list.
    laterals: the layers at which paths are to hand up.
  """
  name = type(model).__name__
  if not statistics:
    raise ValueError(
      f'{name} has no ConvNorm, in whose normalisation paths meet: follow each of its convolutions '
      'by one, as in docs/your_own_model.md.'
    )
  if features or len(bits) == 1:
    return
  match laterals:
    case Laterals.BLOCK_ENDS:
      reason = f'no ConvNorm of {name} has ends_block=True'
      remedy = 'mark the last one of every block, or give every_layer'
    case Laterals.EVERY_LAYER:
      reason = f'no normalisation of {name} has has_laterals=True'
      remedy = 'leave it out where paths are to meet'
  raise ValueError(
    f'laterals={laterals.value}: {reason}, so its paths would share nothing; {remedy}.'
  )


def check_model(model: object) -> None:
  """Raises a TypeError for a class, or a partial of it, in place of an instance with a spec."""
  if not isinstance(model, nn.Module) or not hasattr(model, 'spec'):
    raise TypeError(
      f'model={model!r}: give an instance of a Linen module that has an attribute spec, as '
      'CifarResNet(depth=20).'
    )
