"""The network that a config describes."""

from collections.abc import Callable
import dataclasses
import functools

import flax.linen as nn
import jax.numpy as jnp

from dpoq_jax import config as config_lib
from dpoq_jax import models
from dpoq_jax.core import layers, quantizers
from dpoq_jax.network import baselines, onion_network


@functools.cache
def _model(name: str, **sizes: int) -> Callable[..., nn.Module]:
  """One and the same function for the same arguments: networks are equal if their models are."""
  return models.build(name, sizes)


def build(
  config: config_lib.Config, num_classes: int, model: Callable[..., nn.Module] | None = None
) -> baselines.Network:
  """The network of a config: its names resolved to functions, once, here.

  Args:
    config: of a run.
    num_classes: outputs of each classifier.
    model: in place of the one that the config names, which is then not looked for.

  Raises:
    ValueError: if it cannot have these bits, or there is no such model.
  """
  quantization = config.quantization
  if model is None:
    sizes = {name: getattr(config.model, name) for name in ('depth', 'width')}
    known = {name: size for name, size in sizes.items() if size is not None}
    model = _model(config.model.name, **known)
  onion = onion_network.Onion(
    model=model,
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
  return baselines.SharedNetwork(tuple(individuals), nested)
