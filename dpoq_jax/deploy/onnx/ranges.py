"""Ranges of the tensors of an integer graph, measured on images.

A path is run from its steps, in JAX, with pre-activations kept as the terms that an integer runtime
adds up one by one; each term and each partial sum has a range of its own.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpoq_jax.core import quantizers
from dpoq_jax.deploy.onnx import integer_layers
from dpoq_jax.deploy.onnx import steps as steps_lib
from dpoq_jax.network import onion_network
from dpoq_jax.runtime import compiler

_BATCH = 64
_SAMPLES = 4096  # Numbers of a tensor kept for each batch.
# Ends of ranges that are tried, as shares of the most extreme number.
_SHARES = np.linspace(1, 0.1, 19)
_LEVELS = 255


class Range(NamedTuple):
  """Values that a tensor takes, 0 among them."""

  low: float
  high: float


def own(index: int, conv: str) -> str:
  """Key of `gamma z + beta` of a layer."""
  return f'{index}/{conv}/own'


def handed_up(index: int, conv: str) -> str:
  """Key of what a layer hands up."""
  return f'{index}/{conv}/handed_up'


def lateral(index: int, conv: str, lower: int) -> str:
  """Key of `shift_j z_j`."""
  return f'{index}/{conv}/from_{lower}'


def partial(index: int, pact: str, count: int) -> str:
  """Key of the sum of the first `count` terms of what `pact` clips."""
  return f'{index}/{pact}/sum_{count}'


def ranges(
  network: onion_network.Onion, variables: Mapping[str, Any], images: np.ndarray
) -> dict[str, Range]:
  """Ranges of all terms of all paths.

  Args:
    network: the network.
    variables: frozen.
    images: uint8 [examples, height, width, channels], which logits are not reported on.
  """
  run = _compiled(network, variables, images.shape[1:])
  batches = [_on_host(run(images[i : i + _BATCH])[1]) for i in range(0, len(images), _BATCH)]
  found: dict[str, list[Use]] = {}
  for uses in zip(*batches, strict=True):
    key, *_, clip, low = uses[0]
    values, factors, totals = (np.concatenate([use[part] for use in uses]) for part in (1, 2, 3))
    found.setdefault(str(key), []).append(Use(values, factors, totals, float(clip), float(low)))
  return {key: best(uses) for key, uses in found.items()}


class Use(NamedTuple):
  """Samples of a tensor, and what becomes of them at a place where it is read; all [count].

  Attributes:
    values: of the tensor.
    factors: what it is multiplied by there.
    totals: of the sum it is then part of, which is clipped.
    clip: the highest value that passes, PACT's alpha.
    low: the lowest.
  """

  values: np.ndarray
  factors: np.ndarray
  totals: np.ndarray
  clip: float
  low: float


def best(uses: list[Use]) -> Range:
  """The range on which 255 steps change least, in mean square, what is read of a tensor.

  What its readers clip need not be told apart: where a sum is far below 0, neither how far.
  """
  values = np.concatenate([use.values for use in uses])
  extremes = Range(min(0.0, float(values.min())), max(0.0, float(values.max())))
  low, high = extremes
  right = [np.clip(use.totals, use.low, use.clip) for use in uses]

  def error(low: float, high: float) -> float:
    step = max(high - low, 1e-6) / _LEVELS
    result = 0.0
    for use, wanted in zip(uses, right, strict=True):
      rounded = np.clip(np.rint(use.values / step), np.rint(low / step), np.rint(high / step))
      read = use.totals + use.factors * (rounded * step - use.values)
      result += float(np.square(np.clip(read, use.low, use.clip) - wanted).mean())
    return result

  # An end at a time, twice.
  for _ in range(2):
    low = min((share * extremes.low for share in _SHARES), key=lambda each: error(each, high))
    high = min((share * extremes.high for share in _SHARES), key=lambda each: error(low, each))
  return Range(low, high)


def logits(
  network: onion_network.Onion, variables: Mapping[str, Any], images: np.ndarray
) -> np.ndarray:
  """Logits [precisions, batch, classes] from the steps: those of the network, if they are right."""
  return np.stack(_compiled(network, variables, images.shape[1:])(images)[0])


def _compiled(network: onion_network.Onion, variables: Mapping[str, Any], image_shape: Any) -> Any:
  paths = [steps_lib.trace(network, index, image_shape) for index in range(len(network.bits))]
  keys: list[str] = []

  def run(images):
    found, uses = _run(network, variables, paths, images)
    keys[:] = [key for key, *_ in uses]
    return found, [rest for _, *rest in uses]

  compiled = jax.jit(run, compiler_options=compiler.once_options())

  def with_keys(images):
    found, uses = compiled(images)
    return found, [(key, *rest) for key, rest in zip(keys, uses, strict=True)]

  return with_keys


def _run(
  network: onion_network.Onion,
  variables: Mapping[str, Any],
  paths: list[list[steps_lib.Step]],
  images: jax.Array,
) -> tuple[Any, Any]:
  """Logits of every path, and the uses of every tensor: (key, *Use)."""
  uses: list[tuple] = []
  normalised: dict[tuple[int, str], jax.Array] = {}
  found = []
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
          alpha = (
            0.0
            if integer_layers.is_float(network)
            else integer_layers.clip(network, variables, index, step.name)
          )
          signed = step.options['signed']
          total, sums = _added(terms, [partial(index, step.name, n) for n in range(len(terms) + 1)])
          bounds = (alpha, -alpha if signed else 0.0)
          for key, value, factor in (*(read for term in terms for read in term.read), *sums):
            sampled = map(_sample, (value, jnp.broadcast_to(factor, value.shape), total))
            uses.append((key, *sampled, *bounds))
          clip = jnp.asarray(alpha, total.dtype)
          coded = quantizers.pact(total, clip, network.activation_bits, signed=signed)
          result = [_Term(coded.value)]
        case 'image':
          pixels = (_f32(images) - _f32(step.options['offset'])) * _f32(step.options['factor'])
          result = [_Term(pixels)]
        case _:
          result = [_Term(_plain(step, terms[0].value, network, variables, index))]
      values.append(result)
    found.append(values[-1][0].value)
  return found, uses


class _Term(NamedTuple):
  """A summand of a pre-activation, or an activation.

  Attributes:
    value: [batch, height, width, channels].
    read: the tensors it is made of: key, value, and what that is multiplied by.
  """

  value: jax.Array
  read: tuple[tuple[str, jax.Array, Any], ...] = ()


def _terms(
  network: onion_network.Onion,
  variables: Mapping[str, Any],
  index: int,
  step: steps_lib.Step,
  x: jax.Array,
  normalised: dict[tuple[int, str], jax.Array],
) -> list[_Term]:
  """The terms of a layer's pre-activation; notes its `z`."""
  layer = integer_layers.layer(network, variables, index, step.name)
  kernel = jnp.asarray(layer.kernel * layer.step, jnp.float32)
  y = quantizers.convolve(x, kernel, step.options['strides'], jnp.float32)
  z = (y - _per_channel(layer.mean)) / _per_channel(layer.deviation)
  normalised[index, step.name] = z

  def read_of(lower: int, factor: np.ndarray) -> tuple[str, jax.Array, Any]:
    """What path `lower` hands up, and what it is multiplied by to give `factor * z`."""
    below = integer_layers.layer(network, variables, lower, step.name)
    up = _per_channel(below.multiplier) * normalised[lower, step.name] + _per_channel(below.beta)
    return handed_up(lower, step.name), up, _f32(integer_layers.ratio(factor, below.multiplier))

  one = np.float32(1)
  mine = _per_channel(layer.gamma) * z + _per_channel(layer.beta)
  terms = [_Term(mine, ((own(index, step.name), mine, one), read_of(index, layer.gamma)))]
  for j, shift in layer.shifts.items():
    term = _per_channel(shift) * normalised[j, step.name]
    key = lateral(index, step.name, j)
    terms.append(_Term(term, ((key, term, one), read_of(j, shift))))
  return terms


def _added(terms: list[_Term], keys: list[str]) -> tuple[jax.Array, list[tuple]]:
  """The sum of terms, and the partial sums as they are read."""
  total, sums = terms[0].value, []
  for count, term in enumerate(terms[1:], start=2):
    total = total + term.value
    sums.append((keys[count], total, np.float32(1)))
  return total, sums


def _on_host(uses: list[tuple]) -> list[tuple]:
  return [(key, *map(np.asarray, rest)) for key, *rest in uses]


def _sample(tensor: jax.Array) -> jax.Array:
  """Some of its numbers, at the same places for equal shapes."""
  # An odd stride, which comes by all channels where their number is a power of two.
  return tensor.reshape(-1)[:: tensor.size // _SAMPLES | 1]


def _plain(step: steps_lib.Step, x: jax.Array, network, variables, index: int) -> jax.Array:
  """Steps that every runtime has."""
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
  raise AssertionError(step.kind)


def _f32(array: Any) -> jax.Array:
  return jnp.asarray(array, jnp.float32)


def _per_channel(array: Any) -> jax.Array:
  """Returns [channels] as [1, 1, 1, channels], the rank of what it is combined with."""
  return _f32(array).reshape(1, 1, 1, -1)
