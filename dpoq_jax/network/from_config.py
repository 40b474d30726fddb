"""Builds the network that a config describes."""

from collections.abc import Callable
import dataclasses
from typing import NamedTuple, assert_never

import flax.linen as nn
import jax
import jax.numpy as jnp

from dpoq_jax import config as config_lib
from dpoq_jax import models, onion
from dpoq_jax.core import quantizers
from dpoq_jax.core.names import path_name
from dpoq_jax.core.spec import Laterals, LayerOptions, Merge
from dpoq_jax.network.companions import Companions
from dpoq_jax.network.onion_network import Onion
from dpoq_jax.network.shared_kernels import SharedNetwork
from dpoq_jax.network.trainable import TrainableNetwork


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
    sum_logits=quantization.sum_logits,
    options=LayerOptions(
      weight_quantizer=weight_quantizer(quantization.weight_quantizer),
      merge=Merge(quantization.merge),
      laterals=Laterals(quantization.laterals),
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


def build_trainable(config: config_lib.Config, num_classes: int) -> TrainableNetwork:
  """Builds the network of a config as it is trained: with companions, if it has any.

  Raises:
    ValueError: see `build`.
  """
  network, objective = build(config, num_classes), config.objective
  if not objective.companion_bits or not isinstance(network, Onion):
    return network
  rings = objective.companion_rings or len(network.bits)
  return Companions(network, objective.companion_bits, rings, objective.draw_companion)


class Ring(NamedTuple):
  """Describes how a ring's codes follow from its latents.

  Attributes:
    width: bits of a code.
    quantize: function of latents that returns their codes, of the same shape.
  """

  width: int
  quantize: Callable[[jax.Array], jax.Array]


def rings(quantization: config_lib.Quantization) -> dict[str, Ring]:
  """Returns the rings of an onion, by the name of their path."""
  bits, quantize = quantization.bits, weight_quantizer(quantization.weight_quantizer)
  return {
    path_name(precision): Ring(width, lambda latents, width=width: quantize(latents, width))
    for precision, width in zip(bits, onion.ring_widths(bits), strict=True)
  }


def weight_quantizer(name: config_lib.WeightQuantizer) -> quantizers.WeightQuantizer:
  """Returns the weight quantizer that a config names."""
  match name:
    case 'dorefa':
      return quantizers.dorefa
    case 'standardised':
      return quantizers.standardised
    case 'standardised_least_error':
      return quantizers.standardised_least_error
    case 'standardised_per_channel':
      return quantizers.standardised_per_channel
    case _:
      assert_never(name)
