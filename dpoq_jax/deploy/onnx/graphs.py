"""Networks as ONNX graphs: one per path, and one per precision that runs all its paths.

A path's convolution, normalisation, gamma and beta are one integer convolution. Its result `t =
multiplier * z + beta` is what is handed up; a higher path brings it to `shift * z` by a depthwise
convolution of one number per channel and adds it, in integers all along. Where the last of these
operations can give PACT's codes itself, by saturating, there is no further one. Images go in as the
uint8 pixels that they are, [batch, height, width, channels], as do the laterals.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx

from dpoq_jax import onion
from dpoq_jax.deploy.onnx import integer_layers
from dpoq_jax.deploy.onnx import ranges as ranges_lib
from dpoq_jax.deploy.onnx import steps as steps_lib
from dpoq_jax.deploy.onnx.writer import (
  TO_NCHW,
  TO_NHWC,
  Scale,
  Tensor,
  Writer,
  scale_of,
)
from dpoq_jax.network import onion_network

IMAGES, LOGITS = 'images', 'logits'


class Source(NamedTuple):
  """What graphs are made from.

  Attributes:
    network: the network.
    variables: frozen, NumPy arrays.
    paths: the steps of every path, the lowest first.
    ranges: see `ranges.ranges`; empty for a float network.
    image_shape: height, width, channels.
  """

  network: onion_network.Onion
  variables: Mapping[str, Any]
  paths: tuple[list[steps_lib.Step], ...]
  ranges: Mapping[str, ranges_lib.Range]
  image_shape: tuple[int, int, int]


def prepare(
  network: onion_network.Onion, variables: Mapping[str, Any], images: np.ndarray
) -> Source:
  """Calibrates a network for its graphs.

  Args:
    network: the network.
    variables: frozen.
    images: uint8 [examples, height, width, channels], on which scales are chosen.

  Raises:
    ValueError: for a network that cannot be exported.
  """
  integer_layers.check(network)
  height, width, channels = images.shape[1:]
  image_shape = (height, width, channels)
  paths = tuple(steps_lib.trace(network, index, image_shape) for index in range(len(network.bits)))
  ranges: dict[str, ranges_lib.Range] = {}
  if not integer_layers.is_float(network):
    ranges = ranges_lib.ranges(network, variables, paths, images)
  return Source(network, variables, paths, ranges, image_shape)


def lateral_name(precision: int, layer: str) -> str:
  """Name of the tensor that the path of a precision hands up at a layer."""
  return f'lateral_{precision}/{layer}'


def path_graph(source: Source, index: int) -> onnx.ModelProto:
  """The graph of one path: images and laterals of lower paths to logits and its own laterals.

  Args:
    source: of the graphs.
    index: the path, from 0.

  Returns:
    A model with inputs `images` and `lateral_B/LAYER` of the lower precisions B, all uint8 and
    outputs `logits`, float32, and, but for the highest path, its own `lateral_B/LAYER`.
  """
  bits = source.network.bits
  writer = Writer()
  images = _images(source, writer)
  steps = source.paths[index]
  laterals = {}
  for step in (step for step in steps if step.kind == 'conv'):
    for lower in integer_layers.layer(source.network, source.variables, index, step.name).shifts:
      given = writer.input(lateral_name(bits[lower], step.name), np.uint8, step.shape)
      inside = writer.node('Transpose', given, perm=TO_NCHW)
      laterals[lower, step.name] = Tensor(inside, _handed_up_scale(source, lower, step.name))
  path = _Path(source, index, writer, images, laterals, hands_up=index + 1 < len(bits))
  writer.output(path.run(steps), LOGITS, np.float32, steps[-1].shape)
  for step in steps:
    if (tensor := laterals.get((index, step.name))) is not None:
      outside = writer.node('Transpose', tensor.name, perm=TO_NHWC)
      writer.output(outside, lateral_name(bits[index], step.name), np.uint8, step.shape)
  return writer.model(f'path_{bits[index]}')


def precision_graph(source: Source, index: int) -> onnx.ModelProto:
  """The graph of a precision: images to logits through all its paths, the lowest first.

  Its highest path hands nothing up, so it takes PACT's codes from its convolutions directly; the
  others are those of `path_graph`.
  """
  writer = Writer()
  images = _images(source, writer)
  laterals: dict[tuple[int, str], Tensor] = {}
  logits, shape = '', ()
  for each in range(index + 1):
    steps = source.paths[each]
    path = _Path(source, each, writer, images, laterals, hands_up=each < index)
    logits, shape = path.run(steps), steps[-1].shape
  writer.output(logits, LOGITS, np.float32, shape)
  return writer.model(f'precision_{source.network.bits[index]}')


def _images(source: Source, writer: Writer) -> str:
  given = writer.input(IMAGES, np.uint8, source.image_shape)
  return writer.node('Transpose', given, perm=TO_NCHW)


def _handed_up_scale(source: Source, index: int, layer: str) -> Scale:
  return scale_of(*source.ranges[ranges_lib.handed_up(index, layer)])


class _Term(NamedTuple):
  """`factor * x + bias` per channel, or a convolution of x, not yet rounded to a scale.

  Attributes:
    x: input.
    gain: [features].
    bias: [features].
    key: of its range.
    kernel: None for a depthwise factor.
    options: of the convolution.
  """

  x: Tensor
  gain: np.ndarray
  bias: np.ndarray
  key: str
  kernel: np.ndarray | None = None
  options: dict[str, Any] = {}  # noqa: RUF012 (never written)

  def write(self, writer: Writer, scale: Scale | None) -> Tensor:
    if self.kernel is None:
      assert scale is not None
      return writer.scaled(self.x, self.gain, self.bias, scale)
    return writer.convolution(self.x, self.kernel, self.gain, self.bias, scale, **self.options)


class _Path:
  """Writes the steps of one path.

  A value is the list of terms that add up to it: a pre-activation is not added up before it is
  known on which scale it is wanted.
  """

  def __init__(
    self,
    source: Source,
    index: int,
    writer: Writer,
    images: str,
    laterals: dict[tuple[int, str], Tensor],
    *,
    hands_up: bool,
  ):
    self._source, self._index, self._writer, self._images = source, index, writer, images
    self._laterals, self._hands_up = laterals, hands_up
    self._float = integer_layers.is_float(source.network)

  def run(self, steps: list[steps_lib.Step]) -> str:
    """Writes all steps; returns the name of the logits."""
    values: list[Sequence[Tensor | _Term]] = []
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

  def _tensor(self, terms: Sequence[Tensor | _Term]) -> Tensor:
    match terms:
      case [Tensor() as x]:
        return x
    raise steps_lib.UnsupportedStepError(
      'a model in which anything but an activation follows a convolution cannot be exported.'
    )

  def _image(self, step: steps_lib.Step) -> Tensor:
    factor, offset = step.options['factor'], step.options['offset']
    if not self._float:
      return Tensor(self._images, Scale(factor, int(offset)))
    w = self._writer
    # To the numbers that the first convolution pads with 0.
    pixels = w.node('Cast', self._images, to=onnx.TensorProto.FLOAT)
    centred = w.node('Sub', pixels, w.constant(np.float32(offset)))
    return Tensor(w.node('Mul', centred, w.constant(np.float32(factor))), None)

  def _conv(self, step: steps_lib.Step, x: Tensor) -> list[Tensor | _Term]:
    """The terms of a pre-activation: this path's own, and those of lower paths."""
    index, source = self._index, self._source
    layer = integer_layers.layer(source.network, source.variables, index, step.name)
    options = {
      'strides': step.options['strides'],
      'shared': step.options['groups'],
      'size': step.shape[:2],
    }

    def of(multiplier: np.ndarray, key: str) -> _Term:
      gain = multiplier / layer.deviation
      bias = layer.beta - gain * layer.mean
      return _Term(x, gain * layer.step, bias, key, layer.kernel, options)

    terms: list[Tensor | _Term] = []
    if self._hands_up:
      key = ranges_lib.handed_up(index, step.name)
      scale = _handed_up_scale(source, index, step.name)
      tensor = of(layer.multiplier, key).write(self._writer, scale)
      self._laterals[index, step.name] = tensor
      if np.array_equal(layer.multiplier, layer.gamma):
        terms.append(tensor)
      else:
        ratio = layer.gamma / layer.multiplier
        key = ranges_lib.own(index, step.name)
        terms.append(_Term(tensor, ratio, layer.beta * (1 - ratio), key))
    else:
      terms.append(of(layer.gamma, ranges_lib.own(index, step.name)))
    for lower, shift in layer.shifts.items():
      below = integer_layers.layer(source.network, source.variables, lower, step.name)
      ratio = integer_layers.ratio(shift, below.multiplier)
      key = ranges_lib.lateral(index, step.name, lower)
      terms.append(_Term(self._laterals[lower, step.name], ratio, -ratio * below.beta, key))
    return terms

  def _pact(self, step: steps_lib.Step, terms: list[Tensor | _Term]) -> Tensor:
    """PACT's codes of a sum of terms."""
    signed, w = step.options['signed'], self._writer
    if self._float:
      x = self._added(step, terms, None)
      return x if signed else Tensor(w.node('Relu', x.name), None)
    network = self._source.network
    alpha = integer_layers.clip(network, self._source.variables, self._index, step.name)
    bits = network.activation_bits
    top = onion.max_code(bits - 1 if signed else bits)
    scale = Scale(alpha / top, 128 if signed else 0)
    match terms:
      case [Tensor(scale=Scale() as own) as x] if not signed and bits == 8:
        # On the scale on which it is handed up: a clip is cheaper than another scale.
        return w.clip(x, own.zero, own.zero + round(alpha / own.step))
    codes = self._added(step, terms, scale)
    if bits == 8:
      # Saturated by the type. Signed, that leaves -128 where PACT ends at -127.
      return codes
    return w.clip(codes, scale.zero - (top if signed else 0), scale.zero + top)

  def _added(
    self, step: steps_lib.Step, terms: list[Tensor | _Term], scale: Scale | None
  ) -> Tensor:
    """The sum of terms, on a scale."""
    w, ranges = self._writer, self._source.ranges
    if len(terms) == 1:
      (only,) = terms
      if isinstance(only, _Term):
        return only.write(w, scale)
      if scale is None:
        return only
      ones = np.ones(step.shape[-1])
      return w.scaled(only, ones, 0 * ones, scale)

    def of(term: Tensor | _Term) -> Tensor:
      if isinstance(term, Tensor):
        return term
      return term.write(w, None if scale is None else scale_of(*ranges[term.key]))

    total = of(terms[0])
    for count, term in enumerate(terms[1:], start=2):
      between = scale
      if scale is not None and count < len(terms):
        between = scale_of(*ranges[ranges_lib.partial(self._index, step.name, count)])
      total = w.sum(total, of(term), between)
    return total

  def _plain(self, step: steps_lib.Step, x: Tensor) -> Tensor:
    """Steps that leave integers as they are, and the float end."""
    w, options = self._writer, step.options
    # From height, width, channels to channels, height, width.
    order = (2, 0, 1)
    match step.kind:
      case 'slice':
        arrays = [
          np.array([options[name][axis] for axis in order], np.int64)
          for name in ('starts', 'limits', 'strides')
        ]
        starts, limits, strides = map(w.constant, arrays)
        axes = w.constant(np.array([1, 2, 3], np.int64))
        return x._replace(name=w.node('Slice', x.name, starts, limits, axes, strides))
      case 'pad':
        *around, (before, after) = zip(options['low'], options['high'], strict=True)
        if x.scale is not None and not np.any(around):
          # Runtimes are slow to pad bytes; a convolution with ones leaves them as they are.
          features = step.shape[-1]
          kernel = np.eye(features - before - after, features, before)[None, None]
          return w.convolution(x, kernel, np.ones(features), np.zeros(features), x.scale)
        low, high = ([0, *(options[end][axis] for axis in order)] for end in ('low', 'high'))
        pads = w.constant(np.array(low + high, np.int64))
        zero = np.float32(0) if x.scale is None else np.uint8(x.scale.zero)
        return x._replace(name=w.node('Pad', x.name, pads, w.constant(zero)))
      case 'max_pool':
        pooled = w.node(
          'MaxPool', x.name, kernel_shape=options['window'], strides=options['strides']
        )
        return x._replace(name=pooled)
      case 'mean':
        if x.scale is None:
          return Tensor(w.node('ReduceMean', x.name, axes=[2, 3], keepdims=0), None)
        # Integers are channels last inside of runtimes, which do not see that a mean may be, too.
        rows = x._replace(name=w.node('Transpose', x.name, perm=TO_NHWC))
        return Tensor(w.node('ReduceMean', w.dequantize(rows), axes=[1, 2], keepdims=0), None)
      case 'dense':
        source = self._source
        kernel, bias = integer_layers.dense(
          source.network, source.variables, self._index, step.name
        )
        product = w.node('MatMul', w.dequantize(x), w.constant(kernel))
        return Tensor(w.node('Add', product, w.constant(bias)), None)
    raise AssertionError(step.kind)
