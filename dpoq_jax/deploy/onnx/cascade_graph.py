"""Writes the cascade as one ONNX graph that stops by itself: each further path is inside an `If`.

One image goes in; its label, its probabilities and the precision at which it left come out. The
decision of an exit is that of `decision`, in float64, from inputs with defaults: initializers that
a caller may replace. What a path hands up is read by the branches of the paths above it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from dpoq_jax.deploy.onnx import decision, graphs
from dpoq_jax.deploy.onnx.operators import Writer
from dpoq_jax.deploy.onnx.source import Source

NAME = 'cascade'
"""Name of the graph, and of its file without `.onnx`."""


def cascade_graph(source: Source, point: Mapping[str, Any] | None = None) -> onnx.ModelProto:
  """Returns the graph of the cascade, for batches of one image.

  Args:
    source: the network, prepared.
    point: operating point that the defaults stand for, as manifests have it; without one, every
      image runs all paths, and the last of them predicts alone.

  Returns:
    A model with the input `images`, uint8 [1, height, width, channels], those of
    `decision.inputs` and `max_bits`, int64 [1], bits of the precision at which an image leaves at
    the latest, all with defaults, and the outputs `label`, int64 [1], `probabilities`, float64 [1,
    classes], and `precision`, int64 [1]. One precision alone has no thresholds and no `max_bits`.
  """
  bits = source.network.bits
  writer = Writer(batch=1)
  writer.input(graphs.IMAGES, np.uint8, source.image_shape)
  defaults = decision.inputs(point) if point else decision.inputs_of_highest(len(bits))
  for name, value in defaults.items():
    writer.default(name, value)
  writer.default(decision.MAX_BITS, np.array([bits[-1]], np.int64))
  probabilities, precision = _from_path(source, 0, writer, {}, [])
  label = writer.node('ArgMax', probabilities, axis=-1, keepdims=0)
  classes = source.paths[0][-1].shape
  writer.output(label, decision.LABEL, np.int64, ())
  writer.output(probabilities, decision.PROBABILITIES, np.float64, classes)
  writer.output(precision, decision.PRECISION, np.int64, ())
  return writer.model(NAME)


def _from_path(
  source: Source,
  index: int,
  writer: Writer,
  handed_up: Mapping[str, graphs.HandedUp],
  below: Sequence[str],
) -> list[str]:
  """Writes a path, its exit, and in a branch the paths above it.

  Args:
    source: the network, prepared.
    index: the path, from 0.
    writer: the graph, or the branch.
    handed_up: what the paths below handed up, by name.
    below: names of the probabilities of the precisions below.

  Returns:
    Names of what the exit that an image takes predicts: probabilities [1, classes], and of the
    precision there, [1].
  """
  bits = source.network.bits
  images = graphs.pixels(writer)
  path = graphs.write_path(source, index, writer, images, lambda name, *_: handed_up[name].tensor)
  own = _own_probabilities(writer, index, path.logits, source.paths[index][-1].shape[-1])
  run = [*below, own]
  if index + 1 == len(bits):
    return _exit(writer, bits[index], run)
  leaves = writer.node(
    'Or',
    _is_sure(writer, index, own),
    writer.node('Less', decision.MAX_BITS, writer.constant(np.int64(bits[index + 1]))),
  )
  stops, goes_on = writer.branch(), writer.branch()
  above = _from_path(source, index + 1, goes_on, {**handed_up, **path.handed_up}, run)
  classes = source.paths[index][-1].shape
  for branch, results in ((stops, _exit(stops, bits[index], run)), (goes_on, above)):
    for tensor, dtype, shape in zip(results, (np.float64, np.int64), (classes, ()), strict=True):
      branch.result(tensor, dtype, shape)
  return writer.choice(leaves, stops, goes_on)


def _own_probabilities(writer: Writer, index: int, logits: str, classes: int) -> str:
  """Writes `decision.probabilities` of a path's logits."""
  temperature = writer.node('Gather', decision.TEMPERATURES, writer.constant(np.int64(index)))
  scaled = writer.node('Div', writer.node('Cast', logits, to=onnx.TensorProto.DOUBLE), temperature)
  softmax = writer.node('Softmax', scaled, axis=-1)
  # Where one is not a number, all are not.
  uniform = writer.constant(np.float64(1 / classes))
  return writer.node('Where', writer.node('IsNaN', softmax), uniform, softmax)


def _is_sure(writer: Writer, index: int, own: str) -> str:
  """Writes `decision.leaving`; returns the name of its result, bool [1]."""
  confidence = writer.node('ReduceMax', own, axes=[-1], keepdims=0)
  raised = writer.node('Add', confidence, writer.constant(np.float64(decision.SLACK)))
  bounded = writer.node('Min', raised, writer.constant(np.float64(1)))
  threshold = writer.node('Gather', decision.THRESHOLDS, writer.constant(np.int64(index)))
  return writer.node('GreaterOrEqual', bounded, threshold)


def _exit(writer: Writer, precision: int, run: Sequence[str]) -> list[str]:
  """Writes `decision.combined`, and the precision; returns the names of both."""
  count = len(run)
  ends = ([count - 1, 0], [count, count])
  starts, stops = (writer.constant(np.array(each, np.int64)) for each in ends)
  # [1, precisions], and of each precision [precisions, 1], as of probabilities.
  weights = writer.node('Slice', decision.WEIGHTS, starts, stops)
  weighted = writer.node(
    'Mul', writer.node('Concat', *run, axis=0), writer.node('Transpose', weights, perm=(1, 0))
  )
  over = {
    name: writer.node('ReduceSum', tensor, writer.constant(np.array([axis], np.int64)), keepdims=1)
    for name, tensor, axis in (('total', weighted, 0), ('weight', weights, 1))
  }
  mean = writer.node('Div', over['total'], over['weight'])
  # A constant of its own may be one of the graph around it, which a branch cannot return.
  left_at = writer.node('Identity', writer.constant(np.array([precision], np.int64)))
  return [mean, left_at]
