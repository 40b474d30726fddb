"""Predicts with the ONNX graphs beside this file: NumPy and ONNX Runtime alone.

    python predict.py IMAGES.npy [--max-bits=B | --precision=B] [--batch-size=64]
        [--output=FILE.npz]

IMAGES.npy holds uint8 [examples, height, width, channels]. By default every image runs the paths up
to its exit, as the operating point in `manifest.json` says; --max-bits lets all leave at B bits at
the latest, --precision runs all of them up to B bits and predicts from that precision alone.
"""

import argparse
from collections.abc import Mapping
import hashlib
import json
import os
import pathlib
import sys
from typing import Any, NamedTuple

import numpy as np
import onnxruntime


class Result(NamedTuple):
  """What is predicted.

  Attributes:
    labels: int64 [examples], the most probable class.
    probabilities: float64 [examples, classes].
    precisions: int64 [examples], bits of the precision each image left at.
  """

  labels: np.ndarray
  probabilities: np.ndarray
  precisions: np.ndarray


class Network:
  """The graphs of a folder, opened as they are needed.

  Attributes:
    manifest: content of `manifest.json`.
    bits: the precisions.
  """

  def __init__(self, folder: pathlib.Path, threads: int = 0):
    """Reads the manifest.

    Args:
      folder: with `manifest.json` and the graphs.
      threads: for each graph; 0 leaves it to the runtime.

    Raises:
      OSError: if it cannot be read.
      ValueError: if it is not the manifest of such a folder.
    """
    self._folder, self._threads = folder, threads
    path = folder / 'manifest.json'
    try:
      self.manifest = json.loads(path.read_text('utf-8'))
      self.bits = tuple(self.manifest['bits'])
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
    """Runs every image up to its exit.

    Images of a batch that do not leave wait, with what was computed of them, until a batch of them
    is full; then the next path runs.

    Args:
      images: uint8 [examples, height, width, channels].
      point: an operating point; the folder's own by default.
      max_bits: all leave at so many bits at the latest.
      batch_size: images that a path runs at once.

    Raises:
      ValueError: for other images, without an operating point, or for a precision there is not.
    """
    self._check(images, batch_size)
    points = self.manifest['operating_points']
    if point is None and not points:
      raise ValueError('this folder has no operating point: give --precision.')
    used: Mapping[str, Any] = points[0] if point is None else point
    _check_point(used, self.bits)
    last = len(self.bits) - 1 if max_bits is None else self._index(max_bits)
    exits = np.zeros(len(images), np.int64)
    results = np.zeros((len(images), len(self.manifest['class_names'])))
    # What waits for each path: pieces of (images' numbers, tensors, probabilities of paths below).
    waiting: list[list[tuple]] = [[] for _ in self.bits]

    def run(index: int) -> None:
      pieces, waiting[index] = waiting[index], []
      numbers = np.concatenate([piece[0] for piece in pieces])
      feeds = {name: np.concatenate([p[1][name] for p in pieces]) for name in pieces[0][1]}
      below = [np.concatenate(each) for each in zip(*(p[2] for p in pieces), strict=True)]
      for start in range(0, len(numbers), batch_size):
        part = slice(start, start + batch_size)
        batch = {name: each[part] for name, each in feeds.items()}
        outputs = self.run_graph(self.manifest['paths'][index], batch)
        bits = str(self.bits[index])
        own = probabilities(outputs.pop('logits'), used['temperatures'][bits])
        reached = [*(each[part] for each in below), own]
        leaves = np.ones(len(own), bool)
        if index < last:
          leaves = own.max(axis=-1) >= used['thresholds'][bits]
        mine = numbers[part]
        exits[mine[leaves]] = index
        leaving = [each[leaves] for each in reached]
        results[mine[leaves]] = combined(leaving, used['weights'][bits])
        stays = ~leaves
        if stays.any():
          kept = {name: each[stays] for name, each in {**batch, **outputs}.items()}
          waiting[index + 1].append((mine[stays], kept, [each[stays] for each in reached]))
          if sum(len(piece[0]) for piece in waiting[index + 1]) >= batch_size:
            run(index + 1)

    for start in range(0, len(images), batch_size):
      batch = images[start : start + batch_size]
      waiting[0].append((np.arange(start, start + len(batch)), {'images': batch}, []))
      run(0)
    for index in range(1, last + 1):
      if waiting[index]:
        run(index)
    return Result(results.argmax(axis=-1), results, np.array(self.bits)[exits])

  def predict_at(self, images: np.ndarray, precision: int, batch_size: int = 64) -> Result:
    """Runs all images up to one precision, in one graph, and predicts from it alone."""
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
    """Outputs by name of a graph of the manifest on those of `feeds` that it reads.

    Raises:
      OSError: if its file is not there; those of other graphs need not be.
      ValueError: if it was altered.
    """
    file = graph['file']
    if file not in self._sessions:
      content = (self._folder / file).read_bytes()
      if hashlib.sha256(content).hexdigest() != graph['sha256']:
        raise ValueError(f'{file} was altered: its digest is not that of the manifest.')
      self._sessions[file] = session(content, self._threads)
    names = graph['outputs']
    inputs = {name: feeds[name] for name in graph['inputs']}
    results = self._sessions[file].run(names, inputs)
    return {name: np.asarray(each) for name, each in zip(names, results, strict=True)}

  def _index(self, precision: int) -> int:
    if precision not in self.bits:
      raise ValueError(f'precision {precision}: this network has {self.bits}.')
    return self.bits.index(precision)

  def _check(self, images: np.ndarray, batch_size: int) -> None:
    if batch_size < 1:
      raise ValueError(f'a batch of {batch_size} images: 1 is the least.')
    shape = self.manifest['image_shape']
    if images.dtype != np.uint8 or list(images.shape[1:]) != shape or not len(images):
      raise ValueError(
        f'images are {images.dtype}{list(images.shape)}: give uint8 [examples, '
        f'{", ".join(map(str, shape))}].'
      )


def session(model: bytes, threads: int) -> onnxruntime.InferenceSession:
  """A session for a model that others take turns with."""
  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = threads
  # Threads of a session otherwise wait for its next call by keeping a core busy, and those of the
  # next path compete with them: two graphs in turn took twice the time on two cores.
  options.add_session_config_entry('session.force_spinning_stop', '1')
  return onnxruntime.InferenceSession(model, options, providers=['CPUExecutionProvider'])


def _check_point(point: Mapping[str, Any], bits: tuple[int, ...]) -> None:
  for field in ('thresholds', 'temperatures', 'weights'):
    if missing := [b for b in bits if str(b) not in point.get(field, {})]:
      raise ValueError(f'an operating point has no {field} for {missing[0]} bits')


def read_images(path: pathlib.Path) -> np.ndarray:
  """The array of a `.npy` file.

  Raises:
    OSError, ValueError: if there is none in it.
  """
  try:
    images = np.load(path, allow_pickle=False)
  except EOFError:
    raise ValueError(f'{path} is empty.') from None
  if not isinstance(images, np.ndarray):
    raise ValueError(f'{path} holds several arrays: give one, as a .npy file.')
  return images


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
  """Softmax of `logits / temperature`: float64 [..., classes]; equal where logits say nothing."""
  scaled = np.ascontiguousarray(logits, np.float64) / temperature
  with np.errstate(invalid='ignore'):
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    result = exponentials / exponentials.sum(axis=-1, keepdims=True)
  result[~np.isfinite(result).all(axis=-1)] = 1 / result.shape[-1]
  return result


def combined(run: list[np.ndarray], weights: list[float]) -> np.ndarray:
  """Weighted mean of the probabilities of the precisions that were run, from the lowest up."""
  total = weights[0] * run[0]
  for weight, each in zip(weights[1:], run[1:], strict=True):
    total = total + weight * each
  return total / sum(weights)


def main() -> int:
  """The command."""
  parser = argparse.ArgumentParser(description='Predicts with the ONNX graphs beside this file.')
  parser.add_argument('images', type=pathlib.Path)
  parser.add_argument('--max-bits', type=int)
  parser.add_argument('--precision', type=int)
  parser.add_argument('--batch-size', type=int, default=64)
  parser.add_argument('--output', type=pathlib.Path)
  flags = parser.parse_args()
  # Names of classes may be in letters that a terminal does not have.
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
    # Whoever read it has gone; Python flushes once more on its way out.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  return 0


if __name__ == '__main__':
  sys.exit(main())
