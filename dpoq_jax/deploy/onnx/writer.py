"""ONNX nodes on quantized tensors: each operation between DequantizeLinear and QuantizeLinear.

Runtimes fuse these pairs into integer kernels. What moves or compares numbers without changing them
(Transpose, Slice, Pad, MaxPool, Clip) is given the integers themselves.
"""

from collections.abc import Sequence
from typing import NamedTuple

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

# Neighbours in a row that are taken together where channels are few.
_BLOCK = 4

# Small weights are multiplied up to this: two products with a uint8 fit 16 bits, where kernels of
# processors without VNNI saturate.
_FINE = 63

# Largest integer of a bias: sums of products of bytes come on top of it.
_LARGEST_BIAS = 2**30


class Scale(NamedTuple):
  """What the integers of a uint8 tensor stand for: `(integer - zero) * step`."""

  step: float
  zero: int


class Tensor(NamedTuple):
  """A tensor [batch, channels, height, width] of a graph; without a scale it is float."""

  name: str
  scale: Scale | None


def scale_of(low: float, high: float) -> Scale:
  """The scale on which uint8 covers low..high, 0 being one of its values."""
  step = max(high - low, 1e-6) / LEVELS
  return Scale(step, round(-low / step))


class Writer:
  """A graph under construction; every method that adds an operation returns its result."""

  def __init__(self):
    self._nodes: list[onnx.NodeProto] = []
    self._constants: dict[tuple, onnx.TensorProto] = {}
    self._inputs: list[onnx.ValueInfoProto] = []
    self._outputs: list[onnx.ValueInfoProto] = []
    self._count = 0

  def input(self, name: str, dtype: type[np.generic], shape: Sequence[int]) -> str:
    """Declares an input [batch, *shape]."""
    self._inputs.append(_value_info(name, dtype, shape))
    return name

  def output(self, tensor: str, name: str, dtype: type[np.generic], shape: Sequence[int]) -> None:
    """Declares an output [batch, *shape]."""
    self._nodes.append(helper.make_node('Identity', [tensor], [name]))
    self._outputs.append(_value_info(name, dtype, shape))

  def node(self, kind: str, *inputs: str, **attributes) -> str:
    """Adds any operation of one result."""
    self._count += 1
    name = f'{kind.lower()}_{self._count}'
    self._nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
    return name

  def constant(self, value: npt.ArrayLike) -> str:
    """A constant, of the dtype of an array or NumPy scalar; equal ones are one."""
    array = np.asarray(value)
    key = (array.dtype.str, array.shape, array.tobytes())
    if key not in self._constants:
      name = f'constant_{len(self._constants)}'
      # Not ascontiguousarray, which makes a vector of a scalar.
      self._constants[key] = numpy_helper.from_array(array, name)
    return self._constants[key].name

  def quantize(self, name: str, scale: Scale) -> Tensor:
    """A float tensor as integers."""
    step, zero = np.float32(scale.step), np.uint8(scale.zero)
    quantized = self.node('QuantizeLinear', name, self.constant(step), self.constant(zero))
    return Tensor(quantized, scale)

  def dequantize(self, tensor: Tensor) -> str:
    """A tensor as floats."""
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
  ) -> Tensor:
    """`gain * conv(x, kernel) + bias`, padded by half the kernel.

    Fast kernels want a multiple of 4 channels. Where there are fewer, integers and without strides,
    neighbours in a row are taken together as one pixel of more channels; channels last, as runtimes
    have them, no byte is moved for it. The result is the same, but where kernels saturate (weights
    beyond 63 without VNNI): sums are of other pairs there.

    Args:
      x: input.
      kernel: [height, width, channels / groups, features]; integers of up to ±127 are exact, what
        goes beyond is rounded, the largest of each feature to ±127.
      gain: [features].
      bias: [features].
      scale: of the result; None for float operands and result.
      strides: vertical, horizontal.
      shared: groups of channels.
      size: height and width of the result, if known.
    """
    plain = shared == 1 and tuple(strides) == (1, 1) and None not in (scale, x.scale)
    if plain and size and kernel.shape[2] < _BLOCK and not size[1] % _BLOCK:
      blocks = _in_blocks(kernel)
      joined = self._rearranged(x, (size[0], size[1] // _BLOCK, blocks.shape[2]))
      y = self.convolution(joined, blocks, np.tile(gain, _BLOCK), np.tile(bias, _BLOCK), scale)
      return self._rearranged(y, (*size, kernel.shape[3]))
    sides = [((k - 1) // 2, k // 2) for k in kernel.shape[:2]]
    attributes = {
      'kernel_shape': kernel.shape[:2],
      'strides': tuple(strides),
      'pads': tuple(side[end] for end in (0, 1) for side in sides),
      'group': shared,
    }
    kernel = np.transpose(np.asarray(kernel, np.float64), (3, 2, 0, 1))
    if scale is None or x.scale is None:
      weights = (kernel * gain[:, None, None, None]).astype(np.float32)
      constants = (self.constant(weights), self.constant(bias.astype(np.float32)))
      return Tensor(self.node('Conv', x.name, *constants, **attributes), None)
    largest = np.maximum(np.abs(kernel).max(axis=(1, 2, 3)), 1)
    # A bias is rounded to steps of weight times input: small integers would leave it coarse.
    fit = np.where(largest > 127, largest / 127, 1 / np.maximum(_FINE // largest, 1))
    # A gain near 0 would leave the bias without an integer: weights are rounded to 0 instead.
    wanted = np.maximum(np.abs(gain) * fit, np.abs(bias) / (x.scale.step * _LARGEST_BIAS))
    steps = np.maximum(wanted, 1e-12).astype(np.float32)
    integers = np.rint(kernel * (gain / steps)[:, None, None, None]).astype(np.int8)
    # As the runtime multiplies them.
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
    """The same numbers as height, width, channels of another shape."""
    rows = self.node('Transpose', x.name, perm=TO_NHWC)
    other = self.node('Reshape', rows, self.constant(np.array([-1, *shape], np.int64)))
    return x._replace(name=self.node('Transpose', other, perm=TO_NCHW))

  def scaled(self, x: Tensor, factor: np.ndarray, bias: np.ndarray, scale: Scale) -> Tensor:
    """`factor * x + bias` for each channel: a depthwise convolution of one number."""
    # The largest weight there is, as a bias is rounded to steps of weight times input.
    kernel = np.full((1, 1, 1, len(factor)), 127)
    return self.convolution(x, kernel, factor / 127, bias, scale, shared=len(factor))

  def sum(self, a: Tensor, b: Tensor, scale: Scale | None) -> Tensor:
    """`a + b`."""
    total = self.node('Add', self.dequantize(a), self.dequantize(b))
    return Tensor(total, None) if scale is None else self.quantize(total, scale)

  def clip(self, x: Tensor, low: int, high: int) -> Tensor:
    """Clips the integers."""
    if low <= 0 and high >= LEVELS:
      return x
    bounds = (self.constant(np.uint8(max(low, 0))), self.constant(np.uint8(min(high, LEVELS))))
    return x._replace(name=self.node('Clip', x.name, *bounds))

  def model(self, name: str) -> onnx.ModelProto:
    """The checked model, without what its outputs do not need."""
    needed = {output.name for output in self._outputs}
    nodes = []
    for node in reversed(self._nodes):
      if needed.intersection(node.output):
        needed.update(node.input)
        nodes.append(node)
    graph = helper.make_graph(
      nodes[::-1],
      name,
      [each for each in self._inputs if each.name in needed],
      self._outputs,
      [each for each in self._constants.values() if each.name in needed],
    )
    opset = [helper.make_opsetid('', OPSET)]
    model = helper.make_model(
      graph, producer_name='dpoq_jax', opset_imports=opset, ir_version=_IR_VERSION
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _in_blocks(kernel: np.ndarray) -> np.ndarray:
  """The kernel of the same convolution between blocks of pixels.

  Args:
    kernel: [height, width, channels, features].

  Returns:
    [height, blocks, block * channels, block * features].
  """
  rows, columns, channels, features = kernel.shape
  # Blocks on either side of which a pixel of this one may see something.
  reach = -(-(columns // 2) // _BLOCK)
  blocks = np.zeros((rows, 2 * reach + 1, _BLOCK, channels, _BLOCK, features), kernel.dtype)
  for block, u, v in np.ndindex(2 * reach + 1, _BLOCK, _BLOCK):
    column = (block - reach) * _BLOCK + u - v + (columns - 1) // 2
    if 0 <= column < columns:
      blocks[:, block, u, :, v] = kernel[:, column]
  return blocks.reshape(rows, 2 * reach + 1, _BLOCK * channels, _BLOCK * features)


def _value_info(name: str, dtype: type[np.generic], shape: Sequence[int]) -> onnx.ValueInfoProto:
  kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
  return helper.make_tensor_value_info(name, kind, ['batch', *shape])
