"""Writes networks as ONNX graphs: one for each path, and two for each precision with all its paths.

Images go in as the uint8 pixels that they are, [batch, height, width, channels], and laterals
between paths are uint8 of the same layout; logits, where paths add those of the path below, are
float32. How a path's layers become integer operations is the matter of `path_writer`. The second
graph of a precision takes images as other tools prepare them, `pixel_values`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import onnx

from dpoq_jax.core.names import lateral_collection, path_name
from dpoq_jax.deploy.onnx import integer_layers
from dpoq_jax.deploy.onnx.operators import LEVELS, TO_NCHW, TO_NHWC, Scale, Tensor, Writer
from dpoq_jax.deploy.onnx.path_writer import PathWriter, handed_up_scale
from dpoq_jax.deploy.onnx.source import Source

IMAGES, LOGITS = 'images', 'logits'
"""Names of the first input and the first output of a graph."""

PIXEL_VALUES = 'pixel_values'
"""Name of the input of graphs for other tools."""

# Red, green and blue in grey, in 65536ths: the integers of ITU-R 601 that pillow converts by.
_GREY, _GREY_STEPS = (19595, 38470, 7471), 65536


def lateral_name(precision: int, layer: str) -> str:
  """Returns the name of the tensor that the path of a precision hands up at a layer.

  >>> lateral_name(4, 'stage1_block1/conv1')
  'lateral_4/stage1_block1/conv1'
  """
  return f'{lateral_collection(precision)}/{layer}'


def path_graph(source: Source, index: int) -> onnx.ModelProto:
  """Returns the graph of one path: images and laterals of lower paths to logits and its laterals.

  Args:
    source: the network, prepared.
    index: the path, from 0.

  Returns:
    A model with the inputs `images` and, of the lower precisions B, `lateral_B/LAYER`, all uint8,
    and the outputs `logits`, float32, and, but for the highest path, its own `lateral_B/LAYER`.
    If logits are summed, `lateral_B/logits`, float32, is among both.
  """
  bits, writer = source.network.bits, Writer()
  written = write_path(source, index, writer, _images(source, writer), writer.input)
  classes = source.paths[index][-1].shape
  writer.output(written.logits, LOGITS, np.float32, classes)
  for name, handed_up in written.handed_up.items():
    writer.output(handed_up.tensor, name, handed_up.dtype, handed_up.shape)
  return writer.model(path_name(bits[index]))


class HandedUp(NamedTuple):
  """Describes what a path hands up: a tensor [batch, *shape]."""

  tensor: str
  dtype: type[np.generic]
  shape: tuple[int, ...]


class Path(NamedTuple):
  """Holds the results of a path: the name of its logits, and what it hands up, by name."""

  logits: str
  handed_up: dict[str, HandedUp]


def write_path(
  source: Source,
  index: int,
  writer: Writer,
  images: str,
  given: Callable[[str, type[np.generic], Sequence[int]], str],
) -> Path:
  """Writes one path, between tensors that leave the graph or enter it, channels last.

  Args:
    source: the network, prepared.
    index: the path, from 0.
    writer: the graph.
    images: name of the pixels, channels first.
    given: returns the name of the tensor [batch, *shape] that a lower path handed up, by its name
      (`lateral_name`), dtype and shape.
  """
  bits, steps = source.network.bits, source.paths[index]
  laterals: dict[tuple[int, str], Tensor] = {}
  for step in (step for step in steps if step.kind == 'conv'):
    for lower in integer_layers.layer(source.network, source.variables, index, step.name).shifts:
      outside = given(lateral_name(bits[lower], step.name), np.uint8, step.shape)
      inside = writer.node('Transpose', outside, perm=TO_NCHW)
      laterals[lower, step.name] = Tensor(inside, handed_up_scale(source, lower, step.name))
  hands_up = index + 1 < len(bits)
  path = PathWriter(source, index, writer, images, laterals, hands_up=hands_up)
  logits, classes = path.run(steps), steps[-1].shape
  if (scale := integer_layers.logit_scale(source.network, source.variables, index)) is not None:
    below = given(lateral_name(bits[index - 1], LOGITS), np.float32, classes)
    logits = _with_those_below(writer, logits, below, scale)
  handed_up: dict[str, HandedUp] = {}
  if source.network.sum_logits and hands_up:
    handed_up[lateral_name(bits[index], LOGITS)] = HandedUp(logits, np.float32, classes)
  for step in steps:
    if (tensor := laterals.get((index, step.name))) is not None:
      outside = writer.node('Transpose', tensor.name, perm=TO_NHWC)
      name = lateral_name(bits[index], step.name)
      handed_up[name] = HandedUp(outside, np.uint8, step.shape)
  return Path(logits, handed_up)


def precision_graph(source: Source, index: int) -> onnx.ModelProto:
  """Returns the graph of a precision: images to logits through all its paths, the lowest first.

  Its highest path hands nothing up, so it takes PACT's codes from its convolutions directly; the
  others are those of `path_graph`.

  Args:
    source: the network, prepared.
    index: the precision, from 0.

  Returns:
    A model with the input `images`, uint8, and the output `logits`, float32.
  """
  writer = Writer()
  return _precision(source, index, writer, _images(source, writer), 'precision')


def pixel_values_graph(source: Source, index: int) -> onnx.ModelProto:
  """Returns the graph of a precision for tools that scale pixels to 0 to 1 and put channels first.

  What is not the value of a pixel is rounded to one, and grey is made of colours as pillow does it.

  Args:
    source: the network, prepared.
    index: the precision, from 0.

  Returns:
    A model with the input `pixel_values`, float32 [batch, 3, height, width], and the output
    `logits`, float32.
  """
  height, width, channels = source.image_shape
  writer = Writer()
  given = writer.input(PIXEL_VALUES, np.float32, (3, height, width))
  images = writer.quantize(given, Scale(1 / LEVELS, 0)).name
  if channels == 1:
    colours = writer.node('Cast', images, to=onnx.TensorProto.FLOAT)
    shares = writer.constant(np.array(_GREY, np.float32).reshape(1, 3, 1, 1))
    # All of these numbers are whole and below 2**24, so float32 holds them.
    total = writer.node(
      'Conv', colours, shares, writer.constant(np.array([_GREY_STEPS / 2], np.float32))
    )
    grey = writer.node('Floor', writer.node('Div', total, writer.constant(np.float32(_GREY_STEPS))))
    images = writer.node('Cast', grey, to=onnx.TensorProto.UINT8)
  return _precision(source, index, writer, images, PIXEL_VALUES)


def _precision(
  source: Source, index: int, writer: Writer, images: str, name: str
) -> onnx.ModelProto:
  """Returns the graph of a precision whose input is written: `images` is uint8, channels first."""
  laterals: dict[tuple[int, str], Tensor] = {}
  logits = ''
  for each, steps in enumerate(source.paths[: index + 1]):
    below = logits
    path = PathWriter(source, each, writer, images, laterals, hands_up=each < index)
    logits = path.run(steps)
    if (scale := integer_layers.logit_scale(source.network, source.variables, each)) is not None:
      logits = _with_those_below(writer, logits, below, scale)
  writer.output(logits, LOGITS, np.float32, source.paths[index][-1].shape)
  return writer.model(f'{name}_{source.network.bits[index]}')


def _images(source: Source, writer: Writer) -> str:
  """Declares the images as an input; returns the name of the pixels, channels first."""
  writer.input(IMAGES, np.uint8, source.image_shape)
  return pixels(writer)


def pixels(writer: Writer) -> str:
  """Returns the name of the pixels of `images`, channels first."""
  return writer.node('Transpose', IMAGES, perm=TO_NCHW)


def _with_those_below(writer: Writer, logits: str, below: str, scale: float) -> str:
  """Writes the sum of a path's own logits and, times a scale, those of the path below."""
  return writer.node('Add', logits, writer.node('Mul', below, writer.constant(np.float32(scale))))
