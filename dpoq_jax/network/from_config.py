"""Builds the network that a config describes."""

import dataclasses
from typing import assert_never

import flax.linen as nn
import jax.numpy as jnp

from dpoq_jax import config as config_lib
from dpoq_jax import models
from dpoq_jax.core import quantizers
from dpoq_jax.core.spec import LayerOptions, Merge
from dpoq_jax.network.onion_network import Onion
from dpoq_jax.network.shared_kernels import SharedNetwork


def build(
  config: config_lib.Config, num_classes: int, model: type[nn.Module] | None = None
) -> Onion | SharedNetwork:
  """Builds the network of a config; its names are resolved to functions here, once.

  Args:
    config: of a run.
    num_classes: outputs of each classifier.
    model: the class of one path, in place of the one that the config names, which is then not
      looked for.

  Raises:
    ValueError: if it cannot have these bits, or there is no such model.
  """
  quantization = config.quantization
  sizes = {name: getattr(config.model, name) for name in ('depth', 'width')}
  given = {name: size for name, size in sizes.items() if size is not None}
  network = Onion(
    model=models.build(model or config.model.name, num_classes, given),
    bits=quantization.bits,
    activation_bits=quantization.activation_bits,
    options=LayerOptions(
      weight_quantizer=weight_quantizer(quantization.weight_quantizer),
      merge=Merge(quantization.merge),
      clip_init=quantization.clip_init,
      shift_init=quantization.shift_init,
      compute_dtype=jnp.dtype(quantization.compute_dtype),
    ),
  )
  match quantization.sharing:
    case 'rings':
      return network
    case 'rounded' | 'floored' as sharing:
      nested = sharing == 'floored'
    case _:
      assert_never(quantization.sharing)
  individuals: list[Onion] = []
  for bits, width in zip(network.bits, network.activation_widths, strict=True):
    options = network.options
    if nested:
      options = dataclasses.replace(options, weight_quantizer=quantizers.floored)
    individuals.append(
      dataclasses.replace(network, bits=(bits,), activation_bits=width, options=options)
    )
  return SharedNetwork(tuple(individuals), nested)


def weight_quantizer(name: config_lib.WeightQuantizer) -> quantizers.WeightQuantizer:
  """Returns the weight quantizer that a config names."""
  match name:
    case 'dorefa':
      return quantizers.dorefa
    case 'standardised':
      return quantizers.standardised
    case _:
      assert_never(name)
