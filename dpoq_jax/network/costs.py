"""Counts what a path of a network costs, and reads what a compiled program takes."""

from collections.abc import Callable, Sequence
import dataclasses
import math
from typing import Any

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp

from dpoq_jax.core import layers
from dpoq_jax.network.onion_network import Onion


@dataclasses.dataclass(frozen=True)
class Convolution:
  """Holds the shapes of one convolution.

  Attributes:
    name: module path, joined by `/`.
    inputs: [batch, height, width, channels].
    kernel: [height, width, channels / groups, features].
    strides: (vertical, horizontal).
    outputs: [batch, height', width', features].
  """

  name: str
  inputs: tuple[int, ...]
  kernel: tuple[int, ...]
  strides: tuple[int, int]
  outputs: tuple[int, ...]

  @property
  def multiply_accumulates(self) -> int:
    """Returns those of the forward pass, padding counted as data (as is usual)."""
    return math.prod(self.outputs) * math.prod(self.kernel[:3])


@dataclasses.dataclass(frozen=True)
class PathCost:
  """Holds the cost of the lowest path; others add a vector for each layer and lower path.

  Attributes:
    parameters: kernels, scale and bias of normalisations, classifier; PACT clips are not counted,
      as ordinary networks have none.
    multiply_accumulates: of convolutions and classifier for one image.
    convolutions: in the order in which they run.
  """

  parameters: int
  multiply_accumulates: int
  convolutions: tuple[Convolution, ...]


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
  classifier = 0

  def record(
    call: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: nn.module.InterceptorContext,
  ) -> Any:
    nonlocal classifier
    result = call(*args, **kwargs)
    module, is_call = context.module, context.method_name == '__call__'
    if is_call and isinstance(module, layers.OnionConv):
      x = args[0].code
      kernel = (*module.kernel_size, x.shape[-1] // module.groups, module.features)
      name = '/'.join(module.path)
      convolutions.append(Convolution(name, x.shape, kernel, module.strides, result.code.shape))
    if is_call and isinstance(module, nn.Dense):
      classifier += args[0].shape[-1] * module.features
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
  )
