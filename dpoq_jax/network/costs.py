"""Counts what a path of a network costs, and reads what a compiled program takes.

BitOPs are multiply-adds times the bits of both factors, of one image. Those of convolutions are the
paper's cost; merging laterals adds to them, and the paper does not count it. The classifier is left
out of both: it runs in float, with 640 of the 41 million multiply-adds of ResNet-20.
"""

from collections.abc import Callable, Sequence
import dataclasses
import itertools
import math
from typing import Any, NamedTuple

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp

from dpoq_jax import onion
from dpoq_jax.core import layers, normalisation, quantizers
from dpoq_jax.core.spec import Merge
from dpoq_jax.network.companions import Companions
from dpoq_jax.network.onion_network import Onion
from dpoq_jax.network.shared_kernels import SharedNetwork
from dpoq_jax.network.trainable import TrainableNetwork

_PIXEL_BITS = 8
# As ONNX graphs have them: uint8 features times int8 factors. JAX merges in float32.
_LATERAL_BITS = 8


@dataclasses.dataclass(frozen=True)
class Convolution:
  """Holds the shapes of one convolution.

  Attributes:
    name: module path, joined by `/`.
    inputs: [batch, height, width, channels].
    kernel: [height, width, channels / groups, features].
    strides: (vertical, horizontal).
    outputs: [batch, height', width', features].
    of_pixels: whether its inputs are the image, before any activation.
  """

  name: str
  inputs: tuple[int, ...]
  kernel: tuple[int, ...]
  strides: tuple[int, int]
  outputs: tuple[int, ...]
  of_pixels: bool = False

  @property
  def multiply_accumulates(self) -> int:
    """Returns those of the forward pass, padding counted as data (as is usual)."""
    return math.prod(self.outputs) * math.prod(self.kernel[:3])


@dataclasses.dataclass(frozen=True)
class PathCost:
  """Holds the cost of the lowest path; others add a vector for each layer and path handing up.

  Attributes:
    parameters: kernels, scale and bias of normalisations, classifier; PACT clips are not counted,
      as ordinary networks have none.
    multiply_accumulates: of convolutions and classifier for one image.
    convolutions: in the order in which they run.
    handed_up: numbers that normalisations hand up for one image.
  """

  parameters: int
  multiply_accumulates: int
  convolutions: tuple[Convolution, ...]
  handed_up: int


class BitOps(NamedTuple):
  """Holds the BitOPs of one image that leaves at a precision, of all paths up to it.

  Attributes:
    convolutions: multiply-adds x weight bits x bits of what is convolved: 8 of pixels, else those
      of the path's activations.
    laterals: multiply-adds of merging what lower paths hand up, 8 x 8 bits each; in a network of
      float activations 32 x 32.
  """

  convolutions: int
  laterals: int

  @property
  def total(self) -> int:
    """Returns both together."""
    return self.convolutions + self.laterals


def peak_memory(compiled: jax.stages.Compiled) -> int:
  """Returns the bytes of a program's buffers by XLA's own count, donated arguments once.

  Raises:
    RuntimeError: if the backend does not tell.
  """
  sizes = compiled.memory_analysis()
  if sizes is None:
    raise RuntimeError('this backend does not tell its memory use.')
  return (
    sizes.argument_size_in_bytes
    + sizes.output_size_in_bytes
    + sizes.temp_size_in_bytes
    - sizes.alias_size_in_bytes
  )


def path_cost(network: Onion, image_shape: Sequence[int], *, batch_size: int = 1) -> PathCost:
  """Counts the cost of the lowest path by tracing it, without running it.

  Args:
    network: the onion.
    image_shape: (height, width, channels).
    batch_size: of the shapes in `convolutions`.
  """
  convolutions: list[Convolution] = []
  classifier = handed_up = 0
  of_pixels = True

  def record(
    call: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: nn.module.InterceptorContext,
  ) -> Any:
    nonlocal classifier, handed_up, of_pixels
    result = call(*args, **kwargs)
    module, is_call = context.module, context.method_name == '__call__'
    if is_call and isinstance(module, layers.OnionConv):
      x = args[0].code
      kernel = (*module.kernel_size, x.shape[-1] // module.groups, module.features)
      name = '/'.join(module.path)
      convolutions.append(
        Convolution(name, x.shape, kernel, module.strides, result.code.shape, of_pixels)
      )
    if is_call and isinstance(module, layers.PACT):
      of_pixels = False
    if is_call and isinstance(module, normalisation.NORMALISATIONS) and module.has_laterals:
      handed_up += args[0].code.size
    if is_call and isinstance(module, nn.Dense):
      # On all positions, if it is given more than a vector of each image.
      classifier += math.prod(args[0].shape[1:]) * module.features
    return result

  lowest = network.lowest(1)
  images = jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.uint8)
  with nn.intercept_methods(record):
    variables = jax.eval_shape(lowest.init, jax.random.key(0), images)
  leaves: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(variables['params'])
  return PathCost(
    parameters=sum(leaf.size for path, leaf in leaves.items() if path[-1] != 'clip'),
    multiply_accumulates=sum(c.multiply_accumulates for c in convolutions) // batch_size
    + classifier,
    convolutions=tuple(convolutions),
    handed_up=handed_up // batch_size,
  )


def bitops(network: TrainableNetwork, image_shape: Sequence[int]) -> tuple[BitOps, ...]:
  """Counts the BitOPs of one image at every precision, without running anything.

  Args:
    network: an onion, which reuses what lower paths computed; its companions, gone from what ships,
      cost nothing; shared kernels start anew at each precision.
    image_shape: (height, width, channels).

  Raises:
    TypeError: for another kind of network.
  """
  match network:
    case Companions():
      return bitops(network.network, image_shape)
    case SharedNetwork():
      return tuple(bitops(each, image_shape)[0] for each in network.networks)
    case Onion():
      return _of_onion(network, image_shape)
    case _:
      raise TypeError(f'{type(network).__name__}: it is not known what its precisions reuse.')


def _of_onion(network: Onion, image_shape: Sequence[int]) -> tuple[BitOps, ...]:
  """Counts the BitOPs of an onion's precisions."""
  cost, widths = path_cost(network, image_shape), network.activation_widths
  stem = sum(each.multiply_accumulates for each in cost.convolutions if each.of_pixels)
  others = sum(each.multiply_accumulates for each in cost.convolutions if not each.of_pixels)
  lateral = _LATERAL_BITS
  if quantizers.FLOAT_WIDTH in widths:
    lateral = quantizers.FLOAT_WIDTH
  of_paths: list[BitOps] = []
  for index, (ring, width) in enumerate(zip(onion.ring_widths(network.bits), widths, strict=True)):
    received = index if network.options.merge is Merge.PSBN else min(index, 1)
    of_paths.append(
      BitOps(ring * (_PIXEL_BITS * stem + width * others), received * cost.handed_up * lateral**2)
    )
  sums = (itertools.accumulate(column) for column in zip(*of_paths, strict=True))
  return tuple(itertools.starmap(BitOps, zip(*sums, strict=True)))
