"""Measures the ranges of the tensors of an integer graph on images.

A path is run from its steps, in JAX, with pre-activations kept as the terms that an integer runtime
adds up. What it computes before the sum has a range of its own: a path's own features, and what it
hands up. The sum itself is on the scale of the activation that reads it.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpoq_jax.core import convolution, quantizers
from dpoq_jax.deploy.onnx import integer_layers
from dpoq_jax.deploy.onnx import steps as steps_lib
from dpoq_jax.network import onion_network
from dpoq_jax.runtime import compiler

_BATCH = 64
_SAMPLES = 4096  # Numbers of a tensor kept for each batch.
# Ends of ranges that are tried, as shares of the most extreme number.
_SHARES = np.linspace(1, 0.1, 19)
_LEVELS = 255

Paths = Sequence[Sequence[steps_lib.Step]]
"""Steps of every path, the lowest first."""


class Range(NamedTuple):
  """Holds the ends of the interval of values that a tensor's integers cover, 0 among them."""

  low: float
  high: float


def own(index: int, conv: str) -> str:
  """Returns the key of `gamma z + beta` of layer `conv` of path `index`."""
  return f'{index}/{conv}/own'


def handed_up(index: int, conv: str) -> str:
  """Returns the key of what layer `conv` of path `index` hands up."""
  return f'{index}/{conv}/handed_up'


class Use(NamedTuple):
  """Holds samples of a tensor, and what becomes of them at one place where it is read.

  Attributes:
    values: [count], numbers of the tensor.
    factors: [count], what they are multiplied by there.
    totals: [count], the sums they are then part of, which are clipped.
    clip: [], the highest sum that passes, PACT's alpha.
    low: [], the lowest sum that passes.
  """

  values: Any
  factors: Any
  totals: Any
  clip: Any
  low: Any


Uses = dict[str, list[Use]]
"""Uses of every tensor, by its key."""


def ranges(
  network: onion_network.Onion, variables: Mapping[str, Any], paths: Paths, images: np.ndarray
) -> dict[str, Range]:
  """Returns the ranges of what all paths add up, by key.

  Args:
    network: the network.
    variables: frozen variables.
    paths: the steps of every path, the lowest first.
    images: uint8 [examples, height, width, channels], none that results are reported on.
  """
  run = _compiled(network, variables, paths)
  batches = [
    jax.device_get(run(images[start : start + _BATCH])[1])
    for start in range(0, len(images), _BATCH)
  ]
  return {
    key: best([_joined(parts) for parts in zip(*(batch[key] for batch in batches), strict=True)])
    for key in batches[0]
  }


def keys(
  network: onion_network.Onion,
  variables: Mapping[str, Any],
  paths: Paths,
  image_shape: tuple[int, int, int],
) -> set[str]:
  """Returns the keys of the ranges of what all paths add up; nothing is run.

  Args:
    network: the network.
    variables: frozen variables.
    paths: the steps of every path, the lowest first.
    image_shape: (height, width, channels).
  """
  run = functools.partial(_run, network, variables, paths)
  return set(jax.eval_shape(run, jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8))[1])


def best(uses: Sequence[Use]) -> Range:
  """Returns the range on which 255 steps change least, in mean square, what is read of a tensor.

  Only what readers can tell apart counts: how far a sum is beyond the clip, or below 0, does not.

  Args:
    uses: every place where the tensor is read.
  """
  values = np.concatenate([use.values for use in uses])
  extremes = Range(min(0.0, float(values.min())), max(0.0, float(values.max())))
  low, high = extremes
  exact = [np.clip(use.totals, use.low, use.clip) for use in uses]

  def error(low: float, high: float) -> float:
    step = max(high - low, 1e-6) / _LEVELS
    result = 0.0
    for use, wanted in zip(uses, exact, strict=True):
      rounded = np.clip(np.rint(use.values / step), np.rint(low / step), np.rint(high / step))
      read = use.totals + use.factors * (rounded * step - use.values)
      result += float(np.square(np.clip(read, use.low, use.clip) - wanted).mean())
    return result

  # The two ends depend on one another: each is chosen twice, in turn.
  for _ in range(2):
    low = min((share * extremes.low for share in _SHARES), key=lambda each: error(each, high))
    high = min((share * extremes.high for share in _SHARES), key=lambda each: error(low, each))
  return Range(low, high)


def logits(
  network: onion_network.Onion, variables: Mapping[str, Any], paths: Paths, images: np.ndarray
) -> np.ndarray:
  """Returns the logits that the steps give: the network's, if they were read off it rightly.

  Args:
    network: the network.
    variables: frozen variables.
    paths: the steps of every path, the lowest first.
    images: uint8 [batch, height, width, channels].

  Returns:
    float32 [precisions, batch, classes].
  """
  return np.stack(_compiled(network, variables, paths)(images)[0])


def _compiled(
  network: onion_network.Onion, variables: Mapping[str, Any], paths: Paths
) -> Callable[[np.ndarray], tuple[list[jax.Array], Uses]]:
  """Returns a compiled function of images to the logits of every path and the uses of tensors."""
  run = functools.partial(_run, network, variables, paths)
  return jax.jit(run, compiler_options=compiler.once_options())


def _joined(parts: Sequence[Use]) -> Use:
  """Returns the samples of all batches of one use, whose bounds are the same in all of them."""
  samples = (np.concatenate(each) for each in zip(*(part[:3] for part in parts), strict=True))
  return Use(*samples, clip=parts[0].clip, low=parts[0].low)


class _Read(NamedTuple):
  """Describes how a tensor of the integer graph becomes part of a sum.

  Attributes:
    key: key of its range.
    value: [batch, height, width, channels], its numbers.
    factor: what they are multiplied by, a number or [channels].
  """

  key: str
  value: jax.Array
  factor: Any


class _Term(NamedTuple):
  """Holds a summand of a pre-activation, or an activation.

  Attributes:
    value: [batch, height, width, channels].
    reads: the tensors from which an integer graph may make it.
  """

  value: jax.Array
  reads: tuple[_Read, ...] = ()


def _run(
  network: onion_network.Onion, variables: Mapping[str, Any], paths: Paths, images: jax.Array
) -> tuple[list[jax.Array], Uses]:
  """Returns the logits of every path, and the uses of every tensor."""
  uses: Uses = {}
  normalised: dict[tuple[int, str], jax.Array] = {}
  found: list[jax.Array] = []
  for index, steps in enumerate(paths):
    values: list[list[_Term]] = []
    for step in steps:
      terms = [term for each in step.inputs for term in values[each]]
      match step.kind:
        case 'conv':
          result = _terms(network, variables, index, step, terms[0].value, normalised)
        case 'add':
          result = terms
        case 'pact':
          result = [_Term(_clipped(network, variables, index, step, terms, uses))]
        case 'image':
          pixels = (_f32(images) - _f32(step.options['offset'])) * _f32(step.options['factor'])
          result = [_Term(pixels)]
        case _:
          result = [_Term(_plain(step, terms[0].value, network, variables, index))]
      values.append(result)
    logits = values[-1][0].value
    if (scale := integer_layers.logit_scale(network, variables, index)) is not None:
      logits = logits + _f32(scale) * found[-1]
    found.append(logits)
  return found, uses


def _clipped(
  network: onion_network.Onion,
  variables: Mapping[str, Any],
  index: int,
  step: steps_lib.Step,
  terms: Sequence[_Term],
  uses: Uses,
) -> jax.Array:
  """Returns PACT's codes of a sum of terms; adds what it reads to `uses`."""
  signed, is_float = step.options['signed'], integer_layers.is_float(network)
  alpha = 0.0 if is_float else integer_layers.clip(network, variables, index, step.name)
  total = functools.reduce(operator.add, (term.value for term in terms))
  clip, low = _f32(alpha), _f32(-alpha if signed else 0.0)
  for key, value, factor in (read for term in terms for read in term.reads):
    samples = map(_sample, (value, jnp.broadcast_to(factor, value.shape), total))
    uses.setdefault(key, []).append(Use(*samples, clip=clip, low=low))
  bound = jnp.asarray(alpha, total.dtype)
  return quantizers.pact(total, bound, network.activation_widths[index], signed=signed).value


def _terms(
  network: onion_network.Onion,
  variables: Mapping[str, Any],
  index: int,
  step: steps_lib.Step,
  x: jax.Array,
  normalised: dict[tuple[int, str], jax.Array],
) -> list[_Term]:
  """Returns the terms of a layer's pre-activation; adds its `z` to `normalised`."""
  layer = integer_layers.layer(network, variables, index, step.name)
  kernel = jnp.asarray(layer.kernel * layer.step, jnp.float32)
  y = convolution.convolve(x, kernel, step.options['strides'], jnp.float32)
  z = (y - _per_channel(layer.mean)) / _per_channel(layer.deviation)
  normalised[index, step.name] = z

  def read_of(lower: int, factor: np.ndarray) -> _Read:
    """Describes how what path `lower` hands up becomes `factor * z`."""
    below = integer_layers.layer(network, variables, lower, step.name)
    up = _per_channel(below.multiplier) * normalised[lower, step.name] + _per_channel(below.beta)
    ratio = _f32(integer_layers.ratio(factor, below.multiplier))
    return _Read(handed_up(lower, step.name), up, ratio)

  one = np.float32(1)
  mine = _per_channel(layer.gamma) * z + _per_channel(layer.beta)
  reads = [_Read(own(index, step.name), mine, one)]
  if layer.readers:
    reads.append(read_of(index, layer.gamma))
  terms = [_Term(mine, tuple(reads))]
  for lower, shift in layer.shifts.items():
    term = _per_channel(shift) * normalised[lower, step.name]
    terms.append(_Term(term, (read_of(lower, shift),)))
  return terms


def _sample(tensor: jax.Array) -> jax.Array:
  """Returns some numbers of a tensor, from the same places of all tensors of a shape."""
  # An odd stride comes by all channels where their number is a power of two.
  return tensor.reshape(-1)[:: tensor.size // _SAMPLES | 1]


def _plain(
  step: steps_lib.Step,
  x: jax.Array,
  network: onion_network.Onion,
  variables: Mapping[str, Any],
  index: int,
) -> jax.Array:
  """Returns the result of a step that an integer graph computes as a float one does."""
  options = step.options
  match step.kind:
    case 'slice':
      spans = zip(options['starts'], options['limits'], options['strides'], strict=True)
      return x[(slice(None), *(slice(*span) for span in spans))]
    case 'pad':
      return jnp.pad(x, [(0, 0), *zip(options['low'], options['high'], strict=True)])
    case 'max_pool':
      window, strides = (1, *options['window'], 1), (1, *options['strides'], 1)
      return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, 'VALID')
    case 'mean':
      return x.mean(axis=(1, 2))
    case 'dense':
      kernel, bias = integer_layers.dense(network, variables, index, step.name)
      return x @ kernel + bias[None]
    case _:
      raise AssertionError(step.kind)


def _f32(array: Any) -> jax.Array:
  """Returns a float32 array of numbers of any kind."""
  return jnp.asarray(array, jnp.float32)


def _per_channel(array: Any) -> jax.Array:
  """Returns numbers [channels] as float32 [1, 1, 1, channels], the rank of a batch."""
  return _f32(array).reshape(1, 1, 1, -1)
