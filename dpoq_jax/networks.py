"""The network that a config describes."""

from collections.abc import Callable
import dataclasses
import functools

import flax.linen as nn
import jax.numpy as jnp

from dpoq_jax import config as config_lib
from dpoq_jax import models, network, shared
from dpoq_jax.core import layers, quantizers


@functools.cache
def _model(name: str, **sizes: int) -> Callable[..., nn.Module]:
  """One and the same function for the same arguments: networks are equal if their models are."""
  return models.build(name, sizes)


def build(config: config_lib.Config, num_classes: int) -> shared.Network:
  """The network of a config: its names resolved to functions, once, here.

  Raises:
    ValueError: if it cannot have these bits, or there is no such model.
  """
  model, quantization = config.model, config.quantization
  sizes = {name: size for name in ('depth', 'width') if (size := getattr(model, name)) is not None}
  onion = network.Onion(
    model=_model(model.name, **sizes),
    bits=quantization.bits,
    activation_bits=quantization.activation_bits,
    num_classes=num_classes,
    options=layers.LayerOptions(
      weight_quantizer=quantizers.WEIGHT_QUANTIZERS[quantization.weight_quantizer],
      merge=layers.Merge(quantization.merge),
      clip_init=quantization.clip_init,
      shift_init=quantization.shift_init,
      compute_dtype=jnp.dtype(quantization.compute_dtype),
    ),
  )
  if quantization.sharing == 'rings':
    return onion
  nested = quantization.sharing == 'floored'
  individuals = []
  for bits in quantization.bits:
    options, activation_bits = onion.options, onion.activation_bits
    if nested:
      options = dataclasses.replace(options, weight_quantizer=quantizers.floored)
    if quantization.match_activations:
      activation_bits = bits
      options = dataclasses.replace(options, clip_init=config_lib.default_clip(bits))
    individuals.append(
      dataclasses.replace(onion, bits=(bits,), activation_bits=activation_bits, options=options)
    )
  return shared.SharedNetwork(tuple(individuals), nested)
