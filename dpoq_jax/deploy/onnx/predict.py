"""Predicts with the ONNX graphs beside this file; needs NumPy and ONNX Runtime alone.

    python predict.py IMAGES.npy [--max-bits=B | --precision=B] [--batch-size=64]
        [--output=FILE.npz]

IMAGES.npy holds uint8 [examples, height, width, channels]. By default every image runs the paths up
to its exit, as the operating point in `manifest.json` says; with --max-bits all leave at B bits at
the latest; with --precision all run the paths up to B bits and are predicted from that precision
alone. One line is printed for each image: its class, the probability of that class, and the bits of
the precision at which the image left.
"""

import argparse
from collections.abc import Mapping, Sequence
import hashlib
import json
import os
import pathlib
import sys
from typing import Any, NamedTuple

import numpy as np
import onnxruntime


class Result(NamedTuple):
  """Holds what is predicted for images.

  Attributes:
    labels: int64 [examples], the most probable class.
    probabilities: float64 [examples, classes].
    precisions: int64 [examples], bits of the precision at which each image left.
  """

  labels: np.ndarray
  probabilities: np.ndarray
  precisions: np.ndarray


class Network:
  """Runs the graphs of a folder, each opened when it is first needed.

  Attributes:
    manifest: content of `manifest.json`.
    bits: the precisions, from the lowest up.
  """

  def __init__(self, folder: pathlib.Path, threads: int = 0) -> None:
    """Reads the manifest of a folder.

    Args:
      folder: folder with `manifest.json` and the graphs.
      threads: threads of each graph; 0 leaves the number to the runtime.

    Raises:
      OSError: if the manifest cannot be read.
      ValueError: if it is not the manifest of such a folder.
    """
    self._folder, self._threads = folder, threads
    path = folder / 'manifest.json'
    try:
      self.manifest: dict[str, Any] = json.loads(path.read_text('utf-8'))
      self.bits: tuple[int, ...] = tuple(self.manifest['bits'])
      for kind in ('paths', 'precisions'):
        if tuple(graph['precision'] for graph in self.manifest[kind]) != self.bits:
          raise ValueError(f'{kind} are not those of bits={self.bits}')
      for point in self.manifest['operating_points']:
        _check_point(point, self.bits)
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(f'{path} is not the manifest of these graphs ({error}).') from None
    self._sessions: dict[str, onnxruntime.InferenceSession] = {}

  def predict(
    self,
    images: np.ndarray,
    *,
    point: Mapping[str, Any] | None = None,
    max_bits: int | None = None,
    batch_size: int = 64,
  ) -> Result:
    """Runs every image up to its exit and predicts from the precisions it ran.

    Args:
      images: uint8 [examples, height, width, channels].
      point: an operating point, as in the manifest; the manifest's first one by default.
      max_bits: bits of the precision at which all leave at the latest; the highest by default.
      batch_size: images that a path runs at once.

    Raises:
      ValueError: for images of another shape or dtype, for a precision that the network does not
        have, or if there is no operating point.
    """
    self._check(images, batch_size)
    points = self.manifest['operating_points']
    if point is None and not points:
      raise ValueError('this folder has no operating point: give --precision.')
    used: Mapping[str, Any] = points[0] if point is None else point
    _check_point(used, self.bits)
    last = len(self.bits) - 1 if max_bits is None else self._index(max_bits)
    cascade = _Cascade(self, used, last, batch_size, len(images))
    for start in range(0, len(images), batch_size):
      cascade.run(start, images[start : start + batch_size])
    cascade.finish()
    found = cascade.probabilities
    return Result(found.argmax(axis=-1), found, np.array(self.bits)[cascade.exits])

  def predict_at(self, images: np.ndarray, precision: int, batch_size: int = 64) -> Result:
    """Runs all images up to one precision, in one graph, and predicts from that precision alone.

    Raises:
      ValueError: for images, or a precision, that `predict` would refuse.
    """
    self._check(images, batch_size)
    graph = self.manifest['precisions'][self._index(precision)]
    parts = [
      self.run_graph(graph, {'images': images[i : i + batch_size]})['logits']
      for i in range(0, len(images), batch_size)
    ]
    found = probabilities(np.concatenate(parts))
    return Result(found.argmax(axis=-1), found, np.full(len(images), precision))

  def run_graph(
    self, graph: Mapping[str, Any], feeds: Mapping[str, np.ndarray]
  ) -> dict[str, np.ndarray]:
    """Runs one graph; returns its outputs by name.

    Args:
      graph: its entry in the manifest.
      feeds: its inputs by name, and any other tensors, which it does not read.

    Raises:
      OSError: if its file is not there; the files of other graphs need not be.
      ValueError: if its file was altered.
    """
    file = graph['file']
    if file not in self._sessions:
      content = (self._folder / file).read_bytes()
      if hashlib.sha256(content).hexdigest() != graph['sha256']:
        raise ValueError(f'{file} was altered: its digest is not that of the manifest.')
      self._sessions[file] = session(content, self._threads)
    names = graph['outputs']
    inputs = {name: feeds[name] for name in graph['inputs']}
    results: Sequence[Any] = self._sessions[file].run(names, inputs)
    return {name: np.asarray(each) for name, each in zip(names, results, strict=True)}

  def _index(self, precision: int) -> int:
    """Returns the index of a precision, which must be one of the network's."""
    if precision not in self.bits:
      raise ValueError(f'precision {precision}: this network has {self.bits}.')
    return self.bits.index(precision)

  def _check(self, images: np.ndarray, batch_size: int) -> None:
    """Refuses images that the graphs do not take, and batches of none."""
    if batch_size < 1:
      raise ValueError(f'a batch of {batch_size} images: 1 is the least.')
    shape = self.manifest['image_shape']
    if images.dtype != np.uint8 or list(images.shape[1:]) != shape or not len(images):
      raise ValueError(
        f'images are {images.dtype}{list(images.shape)}: give uint8 [examples, '
        f'{", ".join(map(str, shape))}].'
      )


class _Waiting(NamedTuple):
  """Holds images that wait for a path, with what lower paths computed of them.

  Attributes:
    numbers: int64 [images], where each image stands among all that are predicted.
    tensors: pixels and laterals of the images by name, [images, ...] each.
    below: probabilities at each precision that the images ran, [images, classes] each.
  """

  numbers: np.ndarray
  tensors: dict[str, np.ndarray]
  below: list[np.ndarray]

  def chosen(self, which: np.ndarray | slice) -> '_Waiting':
    """Returns some of the images, by a slice or by a mask [images]."""
    tensors = {name: tensor[which] for name, tensor in self.tensors.items()}
    return _Waiting(self.numbers[which], tensors, [each[which] for each in self.below])


def _joined(pieces: Sequence[_Waiting]) -> _Waiting:
  """Returns the images of several pieces, which wait for the same path, as one piece."""
  numbers = np.concatenate([piece.numbers for piece in pieces])
  tensors = {
    name: np.concatenate([piece.tensors[name] for piece in pieces]) for name in pieces[0].tensors
  }
  by_precision = zip(*(piece.below for piece in pieces), strict=True)
  return _Waiting(numbers, tensors, [np.concatenate(each) for each in by_precision])


class _Cascade:
  """Runs images path by path up to their exits.

  Images of a batch that do not leave wait, with what was computed of them, until a whole batch of
  them is there; then the next path runs.

  Attributes:
    exits: int64 [examples], index of the precision at which each image left.
    probabilities: float64 [examples, classes], the prediction for each image.
  """

  def __init__(
    self, network: Network, point: Mapping[str, Any], last: int, batch_size: int, count: int
  ) -> None:
    """Prepares for `count` images, which run path `last` at the latest."""
    self.exits = np.zeros(count, np.int64)
    self.probabilities = np.zeros((count, len(network.manifest['class_names'])))
    self._network, self._point = network, point
    self._last, self._batch_size = last, batch_size
    # For each path, the pieces that wait for it.
    self._waiting: list[list[_Waiting]] = [[] for _ in network.bits]

  def run(self, start: int, images: np.ndarray) -> None:
    """Runs a batch of images, the first of which is number `start`, as far as batches are full."""
    numbers = np.arange(start, start + len(images))
    self._waiting[0].append(_Waiting(numbers, {'images': images}, []))
    self._run_path(0)

  def finish(self) -> None:
    """Runs all images that still wait, in batches that may not be full."""
    for index in range(1, self._last + 1):
      if self._waiting[index]:
        self._run_path(index)

  def _run_path(self, index: int) -> None:
    """Runs a path on all images that wait for it, and higher paths once a batch waits for them."""
    images = _joined(self._waiting[index])
    self._waiting[index] = []
    for start in range(0, len(images.numbers), self._batch_size):
      staying = self._run_batch(index, images.chosen(slice(start, start + self._batch_size)))
      if len(staying.numbers):
        waiting = self._waiting[index + 1]
        waiting.append(staying)
        if sum(len(piece.numbers) for piece in waiting) >= self._batch_size:
          self._run_path(index + 1)

  def _run_batch(self, index: int, batch: _Waiting) -> _Waiting:
    """Runs a path on one batch and predicts the images that leave; returns those that stay."""
    bits = str(self._network.bits[index])
    outputs = self._network.run_graph(self._network.manifest['paths'][index], batch.tensors)
    own = probabilities(outputs.pop('logits'), self._point['temperatures'][bits])
    leave = np.ones(len(own), bool)
    if index < self._last:
      leave = own.max(axis=-1) >= self._point['thresholds'][bits]
    reached = _Waiting(batch.numbers, {**batch.tensors, **outputs}, [*batch.below, own])
    numbers = batch.numbers[leave]
    self.exits[numbers] = index
    self.probabilities[numbers] = combined(
      [each[leave] for each in reached.below], self._point['weights'][bits]
    )
    return reached.chosen(~leave)


def session(model: bytes, threads: int) -> onnxruntime.InferenceSession:
  """Opens the content of an `.onnx` file as a graph that takes turns with others."""
  options: Any = onnxruntime.SessionOptions()
  options.intra_op_num_threads = threads
  # By default the threads of a session keep cores busy while they wait for its next call, and so
  # slow down the graph whose turn it is: two graphs in turn took twice the time on two cores.
  options.add_session_config_entry('session.force_spinning_stop', '1')
  return onnxruntime.InferenceSession(model, options, providers=['CPUExecutionProvider'])


def _check_point(point: Mapping[str, Any], bits: Sequence[int]) -> None:
  """Refuses an operating point that lacks a number for some precision."""
  for field in ('thresholds', 'temperatures', 'weights'):
    if missing := [b for b in bits if str(b) not in point.get(field, {})]:
      raise ValueError(f'an operating point has no {field} for {missing[0]} bits')


def read_images(path: pathlib.Path) -> np.ndarray:
  """Reads the array of a `.npy` file.

  Raises:
    OSError, ValueError: if the file cannot be read or does not hold one array.
  """
  try:
    images = np.load(path, allow_pickle=False)
  except EOFError:
    raise ValueError(f'{path} is empty.') from None
  if not isinstance(images, np.ndarray):
    raise ValueError(f'{path} holds several arrays: give one, as a .npy file.')
  return images


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
  """Returns the softmax of `logits / temperature`, float64 [..., classes].

  Logits that are not finite say nothing: all classes are then equally probable.
  """
  scaled = np.ascontiguousarray(logits, np.float64) / temperature
  with np.errstate(invalid='ignore'):
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    result: np.ndarray = exponentials / exponentials.sum(axis=-1, keepdims=True)
  result[~np.isfinite(result).all(axis=-1)] = 1 / result.shape[-1]
  return result


def combined(run: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
  """Returns the weighted mean of the probabilities of several precisions.

  Args:
    run: [images, classes] of each precision that was run, from the lowest up.
    weights: weight of each of them.
  """
  total = weights[0] * run[0]
  for weight, each in zip(weights[1:], run[1:], strict=True):
    total = total + weight * each
  return total / sum(weights)


def main() -> int:
  """Runs the command; returns its exit status."""
  parser = argparse.ArgumentParser(description='Predicts with the ONNX graphs beside this file.')
  parser.add_argument('images', type=pathlib.Path)
  parser.add_argument('--max-bits', type=int)
  parser.add_argument('--precision', type=int)
  parser.add_argument('--batch-size', type=int, default=64)
  parser.add_argument('--output', type=pathlib.Path)
  flags = parser.parse_args()
  # A terminal may lack letters that are in the names of classes.
  sys.stdout.reconfigure(errors='backslashreplace')  # pyright: ignore
  try:
    network = Network(pathlib.Path(__file__).resolve().parent)
    images = read_images(flags.images)
    if flags.precision is not None:
      result = network.predict_at(images, flags.precision, flags.batch_size)
    else:
      result = network.predict(images, max_bits=flags.max_bits, batch_size=flags.batch_size)
    if flags.output:
      np.savez(flags.output, **result._asdict())
  except (ValueError, OSError) as error:
    print('error:', error, file=sys.stderr)
    return 2
  names = network.manifest['class_names']
  try:
    for label, each, precision in zip(*result, strict=True):
      print(f'{names[label]}\t{each[label]:.4f}\t{precision} bits')
    sys.stdout.flush()
  except BrokenPipeError:
    # The reader of a pipe has gone, and Python would fail once more when it flushes at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  return 0


if __name__ == '__main__':
  sys.exit(main())
