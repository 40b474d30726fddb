"""Writes the steps of a path as integer operations of an ONNX graph.

A path's convolution, normalisation, gamma and beta are one integer convolution. Its result `t =
multiplier * z + beta` is what is handed up; a higher path brings it to `shift * z` by a depthwise
convolution of one number per channel and adds it, in integers all along. Where the last of these
operations saturates at PACT's bounds, its result is PACT's codes and no further operation follows.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx

from dpoq_jax import onion
from dpoq_jax.deploy.onnx import integer_layers
from dpoq_jax.deploy.onnx import ranges as ranges_lib
from dpoq_jax.deploy.onnx import steps as steps_lib
from dpoq_jax.deploy.onnx.operators import TO_NHWC, Scale, Tensor, Writer, scale_of
from dpoq_jax.deploy.onnx.source import Source

# From height, width, channels to channels, height, width.
_CHANNELS_FIRST = (2, 0, 1)


def handed_up_scale(source: Source, index: int, layer: str) -> Scale:
  """Returns the scale of what path `index` hands up at a layer."""
  return scale_of(*source.ranges[ranges_lib.handed_up(index, layer)])


class _Term(NamedTuple):
  """Describes a summand of a pre-activation that is not yet rounded to a scale.

  It is `gain * conv(x, kernel) + bias`, or `gain * x + bias`, for each channel.

  Attributes:
    x: the input.
    gain: [features].
    bias: [features].
    key: key of its range.
    kernel: the convolution's kernel; None for `gain * x + bias`.
    options: further arguments of `Writer.convolution`.
  """

  x: Tensor
  gain: np.ndarray
  bias: np.ndarray
  key: str
  kernel: np.ndarray | None = None
  options: dict[str, Any] = {}  # noqa: RUF012 (never written)

  def write(self, writer: Writer, scale: Scale | None) -> Tensor:
    """Adds the operation to a graph; returns its result on a scale, None for floats."""
    if self.kernel is None:
      assert scale is not None
      return writer.scaled(self.x, self.gain, self.bias, scale)
    return writer.convolution(self.x, self.kernel, self.gain, self.bias, scale, **self.options)


_Summands = Sequence[Tensor | _Term]
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
      return Tensor(self._images, Scale(factor, int(offset)))
    w = self._writer
    # Convolutions pad with 0, so pixels have to be centred before.
    pixels = w.node('Cast', self._images, to=onnx.TensorProto.FLOAT)
    centred = w.node('Sub', pixels, w.constant(np.float32(offset)))
    return Tensor(w.node('Mul', centred, w.constant(np.float32(factor))), None)

  def _conv(self, step: steps_lib.Step, x: Tensor) -> list[Tensor | _Term]:
    """Returns the terms of a pre-activation, this path's own first; hands up what is read above."""
    index, source = self._index, self._source
    layer = integer_layers.layer(source.network, source.variables, index, step.name)
    options = {
      'strides': step.options['strides'],
      'shared': step.options['groups'],
      'size': step.shape[:2],
    }

    def normalised(multiplier: np.ndarray, key: str) -> _Term:
      """Returns `multiplier * z + beta`."""
      gain = multiplier / layer.deviation
      bias = layer.beta - gain * layer.mean
      return _Term(x, gain * layer.step, bias, key, layer.kernel, options)

    terms: list[Tensor | _Term] = []
    if self._hands_up and layer.readers:
      key = ranges_lib.handed_up(index, step.name)
      scale = handed_up_scale(source, index, step.name)
      tensor = normalised(layer.multiplier, key).write(self._writer, scale)
      self._laterals[index, step.name] = tensor
      if np.array_equal(layer.multiplier, layer.gamma):
        terms.append(tensor)
      else:
        ratio = integer_layers.ratio(layer.gamma, layer.multiplier)
        key = ranges_lib.own(index, step.name)
        terms.append(_Term(tensor, ratio, layer.beta * (1 - ratio), key))
    else:
      terms.append(normalised(layer.gamma, ranges_lib.own(index, step.name)))
    for lower, shift in layer.shifts.items():
      below = integer_layers.layer(source.network, source.variables, lower, step.name)
      ratio = integer_layers.ratio(shift, below.multiplier)
      key = ranges_lib.lateral(index, step.name, lower)
      terms.append(_Term(self._laterals[lower, step.name], ratio, -ratio * below.beta, key))
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
    w, ranges = self._writer, self._source.ranges
    if len(terms) == 1:
      (only,) = terms
      if isinstance(only, _Term):
        return only.write(w, scale)
      if scale is None:
        return only
      ones = np.ones(step.shape[-1])
      return w.scaled(only, ones, 0 * ones, scale)

    def written(term: Tensor | _Term) -> Tensor:
      """Returns a term on the scale of its own range."""
      if isinstance(term, Tensor):
        return term
      return term.write(w, None if scale is None else scale_of(*ranges[term.key]))

    total = written(terms[0])
    for count, term in enumerate(terms[1:], start=2):
      between = scale
      if scale is not None and count < len(terms):
        between = scale_of(*ranges[ranges_lib.partial(self._index, step.name, count)])
      total = w.sum(total, written(term), between)
    return total

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
