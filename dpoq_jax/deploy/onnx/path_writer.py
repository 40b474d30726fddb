"""Writes the steps of a path as integer operations of an ONNX graph.

A path's convolution, normalisation, gamma and beta are one integer convolution. Its result `t =
multiplier * z + beta` is what is handed up. A higher path adds what all lower ones handed up, each
times a number per channel that makes it `shift * z`, to its own and to a shortcut by one depthwise
convolution of all of these. It saturates at PACT's bounds, so that its result is PACT's codes and
no further operation follows.
"""

from collections.abc import Sequence
import functools
from typing import Any, NamedTuple

import numpy as np
import onnx

from dpoq_jax import onion
from dpoq_jax.deploy.onnx import integer_layers
from dpoq_jax.deploy.onnx import ranges as ranges_lib
from dpoq_jax.deploy.onnx import steps as steps_lib
from dpoq_jax.deploy.onnx.operators import LEVELS, TO_NHWC, Scale, Tensor, Writer, scale_of
from dpoq_jax.deploy.onnx.source import Source

# From height, width, channels to channels, height, width.
_CHANNELS_FIRST = (2, 0, 1)


def handed_up_scale(source: Source, index: int, layer: str) -> Scale:
  """Returns the scale of what path `index` hands up at a layer."""
  return scale_of(*source.ranges[ranges_lib.handed_up(index, layer)])


class _Convolution(NamedTuple):
  """Describes a summand of a pre-activation, `gain * conv(x, kernel) + bias`, not yet written.

  Attributes:
    x: the input.
    kernel: the convolution's kernel.
    gain: [features].
    bias: [features].
    key: key of its range, if it is rounded before it is added up.
    options: further arguments of `Writer.convolution`.
  """

  x: Tensor
  kernel: np.ndarray
  gain: np.ndarray
  bias: np.ndarray
  key: str
  options: dict[str, Any]

  def write(self, writer: Writer, scale: Scale | None) -> Tensor:
    """Adds the convolution to a graph; returns its result on a scale, None for floats."""
    return writer.convolution(self.x, self.kernel, self.gain, self.bias, scale, **self.options)


class _Scaled(NamedTuple):
  """Describes a summand of a pre-activation, `gain * x + bias` for each channel, not yet written.

  Attributes:
    x: the tensor, which is integer.
    gain: [features].
    bias: [features].
  """

  x: Tensor
  gain: np.ndarray
  bias: np.ndarray


_Summands = Sequence[Tensor | _Convolution | _Scaled]
"""What adds up to the result of a step: a pre-activation is added up only where its scale is
known, which is where it is read."""


class PathWriter:
  """Writes the steps of one path."""

  def __init__(
    self,
    source: Source,
    index: int,
    writer: Writer,
    images: str,
    laterals: dict[tuple[int, str], Tensor],
    *,
    hands_up: bool,
  ) -> None:
    """Takes the path and the graph to write it to.

    Args:
      source: the network, prepared.
      index: the path, from 0.
      writer: the graph.
      images: name of the pixels, uint8 [batch, channels, height, width].
      laterals: what lower paths hand up, by index and layer; this path adds its own.
      hands_up: whether a higher path reads what this one hands up.
    """
    self._source, self._index, self._writer, self._images = source, index, writer, images
    self._laterals, self._hands_up = laterals, hands_up
    self._float = integer_layers.is_float(source.network)

  def run(self, steps: Sequence[steps_lib.Step]) -> str:
    """Writes all steps; returns the name of the logits."""
    values: list[_Summands] = []
    for step in steps:
      terms = [term for each in step.inputs for term in values[each]]
      match step.kind:
        case 'conv':
          result = self._conv(step, self._tensor(terms))
        case 'add':
          result = terms
        case 'pact':
          result = [self._pact(step, terms)]
        case 'image':
          result = [self._image(step)]
        case _:
          result = [self._plain(step, self._tensor(terms))]
      values.append(result)
    return self._tensor(values[-1]).name

  def _tensor(self, terms: _Summands) -> Tensor:
    """Returns the only tensor of a step's result; refuses a pre-activation."""
    match terms:
      case [Tensor() as x]:
        return x
      case _:
        raise steps_lib.UnsupportedStepError(
          'a model in which anything but an activation follows a convolution cannot be exported.'
        )

  def _image(self, step: steps_lib.Step) -> Tensor:
    """Writes the pixels as the first convolution takes them."""
    factor, offset = step.options['factor'], step.options['offset']
    if not self._float:
      if factor <= 0 or offset not in range(LEVELS + 1):
        raise steps_lib.UnsupportedStepError(
          f'a model whose images are (pixel - {offset:g}) * {factor:g} cannot be exported: in '
          f'integer graphs the offset is the value of a pixel, 0 to {LEVELS}, the factor above 0.'
        )
      return Tensor(self._images, Scale(factor, int(offset)))
    w = self._writer
    # Convolutions pad with 0, so pixels have to be centred before.
    pixels = w.node('Cast', self._images, to=onnx.TensorProto.FLOAT)
    centred = w.node('Sub', pixels, w.constant(np.float32(offset)))
    return Tensor(w.node('Mul', centred, w.constant(np.float32(factor))), None)

  def _conv(self, step: steps_lib.Step, x: Tensor) -> list[Tensor | _Convolution | _Scaled]:
    """Returns the terms of a pre-activation, this path's own first; hands up what is read above."""
    index, source = self._index, self._source
    layer = integer_layers.layer(source.network, source.variables, index, step.name)
    options = {
      'strides': step.options['strides'],
      'shared': step.options['groups'],
      'size': step.shape[:2],
    }

    def normalised(multiplier: np.ndarray, key: str) -> _Convolution:
      """Returns `multiplier * z + beta`."""
      gain = multiplier / layer.deviation
      bias = layer.beta - gain * layer.mean
      return _Convolution(x, layer.kernel, gain * layer.step, bias, key, options)

    terms: list[Tensor | _Convolution | _Scaled] = []
    if self._hands_up and layer.readers:
      key = ranges_lib.handed_up(index, step.name)
      scale = handed_up_scale(source, index, step.name)
      tensor = normalised(layer.multiplier, key).write(self._writer, scale)
      self._laterals[index, step.name] = tensor
      if np.array_equal(layer.multiplier, layer.gamma):
        terms.append(tensor)
      else:
        ratio = integer_layers.ratio(layer.gamma, layer.multiplier)
        terms.append(_Scaled(tensor, ratio, layer.beta * (1 - ratio)))
    else:
      terms.append(normalised(layer.gamma, ranges_lib.own(index, step.name)))
    for lower, shift in layer.shifts.items():
      below = integer_layers.layer(source.network, source.variables, lower, step.name)
      ratio = integer_layers.ratio(shift, below.multiplier)
      terms.append(_Scaled(self._laterals[lower, step.name], ratio, -ratio * below.beta))
    return terms

  def _pact(self, step: steps_lib.Step, terms: _Summands) -> Tensor:
    """Writes PACT; returns its codes of a sum of terms."""
    signed, w = step.options['signed'], self._writer
    if self._float:
      x = self._added(step, terms, None)
      return x if signed else Tensor(w.node('Relu', x.name), None)
    network = self._source.network
    alpha = integer_layers.clip(network, self._source.variables, self._index, step.name)
    bits = network.activation_widths[self._index]
    top = onion.max_code(bits - 1 if signed else bits)
    scale = Scale(alpha / top, 128 if signed else 0)
    x = terms[0]
    if len(terms) == 1 and isinstance(x, Tensor) and x.scale and not signed and bits == 8:
      # On the scale on which it is handed up: a clip is cheaper than another scale.
      return w.clip(x, x.scale.zero, x.scale.zero + round(alpha / x.scale.step))
    codes = self._added(step, terms, scale)
    if bits == 8:
      # The type saturates at PACT's bounds, but for a code of -128 where signed PACT ends at -127.
      return codes
    return w.clip(codes, scale.zero - (top if signed else 0), scale.zero + top)

  def _added(self, step: steps_lib.Step, terms: _Summands, scale: Scale | None) -> Tensor:
    """Writes the sum of terms; returns it on a scale, None for floats."""
    w, ones = self._writer, np.ones(step.shape[-1])
    match terms:
      case [_Convolution() as only]:
        return only.write(w, scale)
      case _:
        pass
    weighted: list[tuple[Tensor, np.ndarray]] = []
    bias, is_plain = 0 * ones, True
    for term in terms:
      match term:
        case _Convolution():
          own = None if scale is None else scale_of(*self._source.ranges[term.key])
          weighted.append((term.write(w, own), ones))
        case _Scaled():
          weighted.append((term.x, term.gain))
          bias, is_plain = bias + term.bias, False
        case _:
          weighted.append((term, ones))
    # Floats, which single networks alone have, and a shortcut without laterals.
    if scale is None or (is_plain and len(terms) == 2):
      return functools.reduce(lambda a, b: w.sum(a, b, scale), (x for x, _ in weighted))
    return w.weighted_sum(weighted, bias, scale, step.shape[:2])

  def _plain(self, step: steps_lib.Step, x: Tensor) -> Tensor:
    """Writes a step that leaves integers as they are, or one of the float end of a network."""
    match step.kind:
      case 'slice':
        return self._slice(step, x)
      case 'pad':
        return self._pad(step, x)
      case 'max_pool':
        window, strides = step.options['window'], step.options['strides']
        pooled = self._writer.node('MaxPool', x.name, kernel_shape=window, strides=strides)
        return x._replace(name=pooled)
      case 'mean':
        return self._mean(x)
      case 'dense':
        return self._dense(step, x)
      case _:
        raise AssertionError(step.kind)

  def _slice(self, step: steps_lib.Step, x: Tensor) -> Tensor:
    """Writes a slice of channels, height and width."""
    w = self._writer
    starts, limits, strides = (
      w.constant(np.array([step.options[name][axis] for axis in _CHANNELS_FIRST], np.int64))
      for name in ('starts', 'limits', 'strides')
    )
    axes = w.constant(np.array([1, 2, 3], np.int64))
    return x._replace(name=w.node('Slice', x.name, starts, limits, axes, strides))

  def _pad(self, step: steps_lib.Step, x: Tensor) -> Tensor:
    """Writes padding with what stands for 0."""
    w, ends = self._writer, (step.options['low'], step.options['high'])
    *around, (before, after) = zip(*ends, strict=True)
    if x.scale is not None and not np.any(around):
      # Runtimes are slow to pad bytes; a convolution with ones leaves them as they are.
      features = step.shape[-1]
      kernel = np.eye(features - before - after, features, before)[None, None]
      return w.convolution(x, kernel, np.ones(features), np.zeros(features), x.scale)
    low, high = ([0, *(end[axis] for axis in _CHANNELS_FIRST)] for end in ends)
    pads = w.constant(np.array(low + high, np.int64))
    zero = np.float32(0) if x.scale is None else np.uint8(x.scale.zero)
    return x._replace(name=w.node('Pad', x.name, pads, w.constant(zero)))

  def _mean(self, x: Tensor) -> Tensor:
    """Writes the mean over height and width, as floats."""
    w = self._writer
    if x.scale is None:
      return Tensor(w.node('ReduceMean', x.name, axes=[2, 3], keepdims=0), None)
    # Runtimes keep integers channels last and move them for a mean that is not written that way.
    channels_last = x._replace(name=w.node('Transpose', x.name, perm=TO_NHWC))
    floats = w.dequantize(channels_last)
    return Tensor(w.node('ReduceMean', floats, axes=[1, 2], keepdims=0), None)

  def _dense(self, step: steps_lib.Step, x: Tensor) -> Tensor:
    """Writes the classifier, in floats."""
    w, source = self._writer, self._source
    kernel, bias = integer_layers.dense(source.network, source.variables, self._index, step.name)
    product = w.node('MatMul', w.dequantize(x), w.constant(kernel))
    return Tensor(w.node('Add', product, w.constant(bias)), None)
