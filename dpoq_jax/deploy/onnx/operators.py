"""Writes ONNX nodes on quantized tensors, each between DequantizeLinear and QuantizeLinear.

Runtimes fuse these into integer kernels. Operations that move or compare numbers without changing
them (Transpose, Slice, Pad, MaxPool, Clip) take the integers themselves.
"""

from collections.abc import Iterator, Sequence
import itertools
import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

OPSET = 17
_IR_VERSION = 8

LEVELS = 255
"""Steps of a uint8 tensor."""

TO_NCHW, TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)
"""Permutations between channels first, as ONNX has them, and last."""

# Channels below which pixels of a row become one of more channels in a depthwise convolution, which
# takes as long for a pixel of few.
_WIDE = 64

# How many neighbouring pixels of a row become one pixel of more channels, where channels are few.
_BLOCK = 4

# Small weights are multiplied up to this number. Two products of it with a uint8 add up within 16
# bits, where kernels for processors without VNNI saturate.
_FINE = 63

# Largest integer of a bias: of 32 bits, the rest is for the sums of products added to it.
_LARGEST_BIAS = 2**30


class Scale(NamedTuple):
  """Describes what the integers of a uint8 tensor stand for: `(integer - zero) * step`."""

  step: float
  zero: int


class Tensor(NamedTuple):
  """Names a tensor [batch, channels, height, width] of a graph; without a scale it is float."""

  name: str
  scale: Scale | None


def scale_of(low: float, high: float) -> Scale:
  """Returns the scale on which uint8 covers `low` to `high` and has an integer for 0."""
  step = max(high - low, 1e-6) / LEVELS
  return Scale(step, round(-low / step))


class Writer:
  """Builds a graph; every method that adds an operation returns its result."""

  def __init__(self, batch: int | str = 'batch', outer: 'Writer | None' = None) -> None:
    """Begins a graph.

    Args:
      batch: images in a batch, or a name if it may be any number.
      outer: the graph of which this one is a branch, whose tensors and constants it reads.
    """
    self._batch, self._outer = batch, outer
    self._nodes: list[onnx.NodeProto] = []
    self._constants: dict[tuple[str, tuple[int, ...], bytes], onnx.TensorProto] = {}
    self._defaults: list[onnx.TensorProto] = []
    self._inputs: list[onnx.ValueInfoProto] = []
    self._outputs: list[onnx.ValueInfoProto] = []
    # No name of a branch may be one of the graph around it.
    self._node_numbers: Iterator[int] = outer._node_numbers if outer else itertools.count(1)
    self._constant_numbers: Iterator[int] = outer._constant_numbers if outer else itertools.count()

  def input(self, name: str, dtype: type[np.generic], shape: Sequence[int]) -> str:
    """Declares an input [batch, *shape]; returns its name."""
    self._inputs.append(_value_info(name, dtype, [self._batch, *shape]))
    return name

  def default(self, name: str, value: npt.ArrayLike) -> str:
    """Declares an input of the shape of a value, which it has where none is given."""
    array = np.asarray(value)
    self._inputs.append(_value_info(name, array.dtype.type, array.shape))
    self._defaults.append(numpy_helper.from_array(array, name))
    return name

  def output(self, tensor: str, name: str, dtype: type[np.generic], shape: Sequence[int]) -> None:
    """Declares a tensor [batch, *shape] as an output of that name."""
    self._nodes.append(helper.make_node('Identity', [tensor], [name]))
    self._outputs.append(_value_info(name, dtype, [self._batch, *shape]))

  def result(self, tensor: str, dtype: type[np.generic], shape: Sequence[int]) -> None:
    """Declares a tensor [batch, *shape] as the next output of a branch, under its own name."""
    self._outputs.append(_value_info(tensor, dtype, [self._batch, *shape]))

  def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
    """Adds any operation of one result; returns the name of the result."""
    name = self._new_name(kind)
    self._nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
    return name

  def branch(self) -> 'Writer':
    """Begins a branch, for `choice`."""
    return Writer(self._batch, self)

  def choice(self, condition: str, then: 'Writer', otherwise: 'Writer') -> list[str]:
    """Adds an `If`; returns the names of its results, which are the outputs of either branch."""
    name = self._new_name('If')
    results = [f'{name}_{each}' for each in range(len(then._outputs))]
    node = helper.make_node('If', [condition], results, name=name)
    for kind, branch in (('then_branch', then), ('else_branch', otherwise)):
      node.attribute.append(helper.make_attribute(kind, branch._graph(f'{name}_{kind}')))
    self._nodes.append(node)
    return results

  def _new_name(self, kind: str) -> str:
    """Returns a name that no other operation has."""
    return f'{kind.lower()}_{next(self._node_numbers)}'

  def constant(self, value: npt.ArrayLike) -> str:
    """Adds a constant of the dtype of an array or NumPy scalar, once; returns its name."""
    array = np.asarray(value)
    key = (array.dtype.str, array.shape, array.tobytes())
    writer: Writer | None = self
    while writer:
      if key in writer._constants:
        return writer._constants[key].name
      writer = writer._outer
    name = f'constant_{next(self._constant_numbers)}'
    self._constants[key] = numpy_helper.from_array(array, name)
    return name

  def quantize(self, name: str, scale: Scale) -> Tensor:
    """Adds the rounding of a float tensor to a scale."""
    step, zero = np.float32(scale.step), np.uint8(scale.zero)
    quantized = self.node('QuantizeLinear', name, self.constant(step), self.constant(zero))
    return Tensor(quantized, scale)

  def dequantize(self, tensor: Tensor) -> str:
    """Adds the floats that a tensor stands for; returns their name."""
    if tensor.scale is None:
      return tensor.name
    step, zero = np.float32(tensor.scale.step), np.uint8(tensor.scale.zero)
    return self.node('DequantizeLinear', tensor.name, self.constant(step), self.constant(zero))

  def convolution(
    self,
    x: Tensor,
    kernel: np.ndarray,
    gain: np.ndarray,
    bias: np.ndarray,
    scale: Scale | None,
    strides: Sequence[int] = (1, 1),
    *,
    shared: int = 1,
    size: Sequence[int] | None = None,
    rows_apart: int | None = None,
  ) -> Tensor:
    """Adds `gain * conv(x, kernel) + bias`, padded by half the kernel.

    Runtimes are fast on multiples of 4 channels. Integers of fewer channels are therefore convolved
    in blocks, if there are no strides: neighbouring pixels of a row become one pixel of more
    channels. With channels last, as runtimes keep them, no byte is moved for that. The result is
    the same, except where sums of two products saturate (weights beyond 63 without VNNI), since
    other products are paired.

    Args:
      x: the input.
      kernel: [height, width, channels / groups, features]; integers of up to ±127 are exact,
        larger ones are rounded to steps on which the largest of each feature is ±127.
      gain: [features].
      bias: [features].
      scale: scale of the result; None for float operands and result.
      strides: (vertical, horizontal).
      shared: number of groups of channels.
      size: (height, width) of the result, if known.
      rows_apart: how far apart in `x` the rows of a kernel are, which is not padded then.
    """
    plain = shared == 1 and tuple(strides) == (1, 1) and None not in (scale, x.scale)
    if plain and size and kernel.shape[2] < _BLOCK and not size[1] % _BLOCK:
      blocks = _in_blocks(kernel)
      joined = self._rearranged(x, (size[0], size[1] // _BLOCK, blocks.shape[2]))
      y = self.convolution(joined, blocks, np.tile(gain, _BLOCK), np.tile(bias, _BLOCK), scale)
      return self._rearranged(y, (*size, kernel.shape[3]))
    sides = [(0, 0) if rows_apart else ((k - 1) // 2, k // 2) for k in kernel.shape[:2]]
    attributes = {
      'kernel_shape': kernel.shape[:2],
      'strides': tuple(strides),
      'pads': tuple(side[end] for end in (0, 1) for side in sides),
      'group': shared,
      **({'dilations': (rows_apart, 1)} if rows_apart else {}),
    }
    kernel = np.transpose(np.asarray(kernel, np.float64), (3, 2, 0, 1))
    if scale is None or x.scale is None:
      weights = (kernel * gain[:, None, None, None]).astype(np.float32)
      constants = (self.constant(weights), self.constant(bias.astype(np.float32)))
      return Tensor(self.node('Conv', x.name, *constants, **attributes), None)
    largest = np.maximum(np.abs(kernel).max(axis=(1, 2, 3)), 1)
    # A bias is rounded to the step of weights times the step of inputs. Small integers, which make
    # the step of weights large, would leave the bias coarse.
    fit = np.where(largest > 127, largest / 127, 1 / np.maximum(_FINE // largest, 1))
    # With a gain near 0 the bias would be too large an integer; a larger step lets weights be 0.
    wanted = np.maximum(np.abs(gain) * fit, np.abs(bias) / (x.scale.step * _LARGEST_BIAS))
    steps = np.maximum(wanted, 1e-12).astype(np.float32)
    integers = np.rint(kernel * (gain / steps)[:, None, None, None]).astype(np.int8)
    # In float32, as the runtime multiplies them.
    bias_steps = np.float32(x.scale.step) * steps
    bias_integers = np.rint(bias / bias_steps).astype(np.int32)
    weights = self.node(
      'DequantizeLinear',
      self.constant(integers), self.constant(steps), self.constant(np.zeros(len(steps), np.int8)),
      axis=0,
    )  # fmt: skip
    added = self.node(
      'DequantizeLinear',
      self.constant(bias_integers),
      self.constant(bias_steps),
      self.constant(np.zeros(len(steps), np.int32)),
      axis=0,
    )
    y = self.node('Conv', self.dequantize(x), weights, added, **attributes)
    return self.quantize(y, scale)

  def _rearranged(self, x: Tensor, shape: Sequence[int]) -> Tensor:
    """Adds the same numbers as (height, width, channels) of another shape."""
    channels_last = self.node('Transpose', x.name, perm=TO_NHWC)
    other = self.node('Reshape', channels_last, self.constant(np.array([-1, *shape], np.int64)))
    return x._replace(name=self.node('Transpose', other, perm=TO_NCHW))

  def weighted_sum(
    self,
    terms: Sequence[tuple[Tensor, np.ndarray]],
    bias: np.ndarray,
    scale: Scale,
    size: Sequence[int],
  ) -> Tensor:
    """Adds `sum_j factor_j x_j + bias` for each channel as one operation, which is rounded once.

    The integers are put one below the other, and a depthwise convolution takes a row of each: its
    rows are as far apart as the tensors are high. What zero points differ by goes into the bias.

    Args:
      terms: tensors of one shape, (height, width) being `size`, each with its factor, [features].
      bias: [features].
      scale: scale of the result.
      size: of the tensors.
    """
    (height, width), features = size, len(bias)
    scales = [x.scale for x, _ in terms if x.scale]
    first = scales[0]
    weights = np.stack([each * s.step for (_, each), s in zip(terms, scales, strict=True)])
    # The largest integer there is, since the finer its step, the finer is that of the bias.
    gain = np.maximum(np.abs(weights).max(axis=0), 1e-12) / (127 * first.step)
    integers = np.rint(weights / (gain * first.step))
    beside = first.zero - np.array([[s.zero] for s in scales])
    bias = bias + gain * first.step * (integers * beside).sum(axis=0)
    joined, block = terms[0][0], math.gcd(width, max(1, _WIDE // features))
    if len(terms) > 1:
      joined = Tensor(self.node('Concat', *(x.name for x, _ in terms), axis=2), first)
    if block > 1:
      joined = self._rearranged(joined, (len(terms) * height, width // block, block * features))
    total = self.convolution(
      joined,
      np.tile(integers, block)[:, None, None],
      np.tile(gain, block),
      np.tile(bias, block),
      scale,
      shared=block * features,
      rows_apart=height,
    )
    return self._rearranged(total, (height, width, features)) if block > 1 else total

  def sum(self, a: Tensor, b: Tensor, scale: Scale | None) -> Tensor:
    """Adds `a + b`, on a scale, None for floats."""
    total = self.node('Add', self.dequantize(a), self.dequantize(b))
    return Tensor(total, None) if scale is None else self.quantize(total, scale)

  def clip(self, x: Tensor, low: int, high: int) -> Tensor:
    """Adds a clip of the integers to `low` and `high`, unless all of them are within."""
    if low <= 0 and high >= LEVELS:
      return x
    bounds = (self.constant(np.uint8(max(low, 0))), self.constant(np.uint8(min(high, LEVELS))))
    return x._replace(name=self.node('Clip', x.name, *bounds))

  def model(self, name: str) -> onnx.ModelProto:
    """Returns the model, checked and without operations that its outputs do not need."""
    opset = [helper.make_opsetid('', OPSET)]
    model = helper.make_model(
      self._graph(name), producer_name='dpoq_jax', opset_imports=opset, ir_version=_IR_VERSION
    )
    onnx.checker.check_model(model, full_check=True)
    return model

  def _graph(self, name: str) -> onnx.GraphProto:
    """Returns the graph, or the branch, without operations that its outputs do not need."""
    needed = {output.name for output in self._outputs}
    nodes: list[onnx.NodeProto] = []
    for node in reversed(self._nodes):
      if needed.intersection(node.output):
        needed.update(_read(node))
        nodes.append(node)
    return helper.make_graph(
      nodes[::-1],
      name,
      [each for each in self._inputs if each.name in needed],
      self._outputs,
      [each for each in (*self._constants.values(), *self._defaults) if each.name in needed],
    )


def _in_blocks(kernel: np.ndarray) -> np.ndarray:
  """Returns the kernel of the same convolution between blocks of pixels.

  Args:
    kernel: [height, width, channels, features].

  Returns:
    [height, blocks, block * channels, block * features].
  """
  rows, columns, channels, features = kernel.shape
  # How many blocks on either side a pixel of this one reaches.
  reach = -(-(columns // 2) // _BLOCK)
  blocks = np.zeros((rows, 2 * reach + 1, _BLOCK, channels, _BLOCK, features), kernel.dtype)
  for block, u, v in np.ndindex(2 * reach + 1, _BLOCK, _BLOCK):
    column = (block - reach) * _BLOCK + u - v + (columns - 1) // 2
    if 0 <= column < columns:
      blocks[:, block, u, :, v] = kernel[:, column]
  return blocks.reshape(rows, 2 * reach + 1, _BLOCK * channels, _BLOCK * features)


def _read(node: onnx.NodeProto) -> Iterator[str]:
  """Yields the names of the tensors that an operation reads, in its branches too."""
  yield from node.input
  for attribute in node.attribute:
    for inside in attribute.g.node:
      yield from _read(inside)


def _value_info(
  name: str, dtype: type[np.generic], shape: Sequence[int | str]
) -> onnx.ValueInfoProto:
  """Describes an input or output."""
  kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
  return helper.make_tensor_value_info(name, kind, shape)
