"""Runs the graphs of an export: the cascade, or one precision alone; NumPy and ONNX Runtime do it.

An export has a copy of this file beside its `predict.py`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import functools
import pathlib
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

if __package__:
  from dpoq_jax.deploy import graph_folder
  from dpoq_jax.deploy.onnx import decision
else:  # In an export, beside this file.
  import decision  # pyright: ignore[reportMissingImports]
  import graph_folder  # pyright: ignore[reportMissingImports]


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
      threads: threads of each graph; 0 leaves the number to the runtime, but for single images,
        where waking a second thread takes longer than it saves.

    Raises:
      OSError: if the manifest cannot be read.
      ValueError: if it is not the manifest of such a folder.
    """
    self._folder, self._threads = folder, threads
    self.manifest = graph_folder.read(folder, 'ONNX graphs', 'calibration_images')
    self.bits: tuple[int, ...] = tuple(self.manifest['bits'])
    self._sessions: dict[tuple[str, int], onnxruntime.InferenceSession] = {}

  def predict(
    self,
    images: np.ndarray,
    *,
    point: Mapping[str, Any] | None = None,
    max_bits: int | None = None,
    batch_size: int = 64,
    single_graph: bool = True,
  ) -> Result:
    """Runs every image up to its exit and predicts from the precisions it ran.

    Images one by one run the graph of the whole cascade, which stops by itself, if the folder has
    it; larger batches run a graph for each path.

    Args:
      images: uint8 [examples, height, width, channels].
      point: an operating point, as in the manifest; the manifest's first one by default.
      max_bits: bits of the precision at which all leave at the latest; the highest by default.
      batch_size: images that a path runs at once.
      single_graph: whether images that come one by one run the graph of the whole cascade.

    Raises:
      ValueError: for images of another shape or dtype, for a precision that the network does not
        have, or if there is no operating point.
    """
    self._check(images, batch_size)
    points = self.manifest['operating_points']
    if point is None and not points:
      raise ValueError('this folder has no operating point: give --precision.')
    used: Mapping[str, Any] = points[0] if point is None else point
    graph_folder.check_point(used, list(self.bits))
    last = len(self.bits) - 1 if max_bits is None else self._index(max_bits)
    if single_graph and _is_single(images, batch_size) and self._has_cascade():
      return self._one_by_one(images, used, self.bits[last])
    run = functools.partial(self.run_graph, single=_is_single(images, batch_size))
    exits = np.zeros(len(images), np.int64)
    found = np.zeros((len(images), len(self.manifest['class_names'])))

    def staying(index: int, batches: Iterator[_Waiting]) -> Iterator[_Waiting]:
      """Runs a path on batches; predicts the images that leave and yields those that stay."""
      bits = str(self.bits[index])
      for batch in batches:
        outputs = run(self.manifest['paths'][index], batch.tensors)
        own = decision.probabilities(outputs.pop('logits'), used['temperatures'][bits])
        leave = decision.leaving(own, used['thresholds'][bits]) | (index == last)
        below = [*batch.below, own]
        exits[batch.numbers[leave]] = index
        left = [each[leave] for each in below]
        found[batch.numbers[leave]] = decision.combined(left, used['weights'][bits])
        if not leave.all():
          yield _Waiting(batch.numbers, {**batch.tensors, **outputs}, below).chosen(~leave)

    starts = range(0, len(images), batch_size)
    whole = _Waiting(np.arange(len(images)), {'images': images}, [])
    waiting = (whole.chosen(slice(start, start + batch_size)) for start in starts)
    # Images that stay wait until a batch of them is there: one path pulls on the one below.
    for index in range(last + 1):
      waiting = staying(index, _batches(waiting, batch_size))
    assert not list(waiting)
    return Result(found.argmax(axis=-1), found, np.array(self.bits)[exits])

  def predict_at(self, images: np.ndarray, precision: int, batch_size: int = 64) -> Result:
    """Runs all images up to one precision, in one graph, and predicts from that precision alone.

    Raises:
      ValueError: for images, or a precision, that `predict` would refuse.
    """
    self._check(images, batch_size)
    graph = self.manifest['precisions'][self._index(precision)]
    run = functools.partial(self.run_graph, graph, single=_is_single(images, batch_size))
    parts = [
      run({'images': images[i : i + batch_size]})['logits']
      for i in range(0, len(images), batch_size)
    ]
    found = decision.probabilities(np.concatenate(parts))
    return Result(found.argmax(axis=-1), found, np.full(len(images), precision))

  def run_graph(
    self, graph: Mapping[str, Any], feeds: Mapping[str, np.ndarray], *, single: bool = False
  ) -> dict[str, np.ndarray]:
    """Runs one graph; returns its outputs by name.

    Args:
      graph: its entry in the manifest.
      feeds: its inputs by name, and any other tensors, which it does not read.
      single: whether images come one by one.

    Raises:
      OSError: if its file is not there; the files of other graphs need not be.
      ValueError: if its file was altered, or is no graph of this network.
    """
    found = self._run(graph, feeds, single=single)
    self._check_output(graph, found, 'logits', len(feeds['images']))
    return found

  def _run(
    self, graph: Mapping[str, Any], feeds: Mapping[str, np.ndarray], *, single: bool
  ) -> dict[str, np.ndarray]:
    """Runs one graph, as `run_graph` does, whatever its outputs are."""
    file, threads = graph['file'], self._threads or int(single)
    if (file, threads) not in self._sessions:
      content = graph_folder.read_file(self._folder, graph)
      self._sessions[file, threads] = _running(file, lambda: session(content, threads))
    run = self._sessions[file, threads]
    names = [each.name for each in run.get_outputs()]
    inputs = {each.name: feeds.get(each.name) for each in run.get_inputs()}
    with_defaults = (each.name for each in run.get_overridable_initializers())
    inputs |= {name: feeds[name] for name in with_defaults if name in feeds}
    results: Sequence[Any] = _running(file, lambda: run.run(names, inputs))
    return {name: np.asarray(each) for name, each in zip(names, results, strict=True)}

  def _has_cascade(self) -> bool:
    """Tells whether the graph of the whole cascade is there; a device need not hold it."""
    return 'cascade' in self.manifest and (self._folder / self.manifest['cascade']['file']).exists()

  def _one_by_one(self, images: np.ndarray, point: Mapping[str, Any], max_bits: int) -> Result:
    """Runs images one by one by the graph of the whole cascade."""
    graph = self.manifest['cascade']
    feeds = {**decision.inputs(point), decision.MAX_BITS: np.array([max_bits])}
    found: list[Result] = []
    for number in range(len(images)):
      outputs = self._run(graph, {**feeds, 'images': images[number : number + 1]}, single=True)
      self._check_output(graph, outputs, decision.PROBABILITIES, 1)
      names = (decision.LABEL, decision.PROBABILITIES, decision.PRECISION)
      found.append(Result(*(outputs[name] for name in names)))
    return Result(*map(np.concatenate, zip(*found, strict=True)))

  def _check_output(
    self, graph: Mapping[str, Any], found: Mapping[str, np.ndarray], name: str, count: int
  ) -> None:
    """Refuses a graph that does not give a number for each image and class."""
    classes = len(self.manifest['class_names'])
    if name not in found or found[name].shape != (count, classes):
      raise ValueError(f'{graph["file"]} does not give {name} of {classes} classes.')

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


def _is_single(images: np.ndarray, batch_size: int) -> bool:
  """Tells whether images are run one by one."""
  return batch_size == 1 or len(images) == 1


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
  below = map(np.concatenate, zip(*(piece.below for piece in pieces), strict=True))
  return _Waiting(numbers, tensors, list(below))


def _batches(pieces: Iterator[_Waiting], size: int) -> Iterator[_Waiting]:
  """Joins pieces, as they come, to batches of one size; the last may be smaller."""
  held: list[_Waiting] = []
  for piece in pieces:
    held.append(piece)
    if sum(len(each.numbers) for each in held) >= size:
      joined = _joined(held)
      yield joined.chosen(slice(size))
      # Less than a batch, as no piece is larger than one.
      held = [joined.chosen(slice(size, None))]
  if sum(len(each.numbers) for each in held):
    yield _joined(held)


def session(model: bytes, threads: int) -> onnxruntime.InferenceSession:
  """Opens the content of an `.onnx` file as a graph that takes turns with others."""
  options: Any = onnxruntime.SessionOptions()
  options.intra_op_num_threads = threads
  # Errors alone: the runtime warns of every input that has a default.
  options.log_severity_level = 3
  # By default the threads of a session keep cores busy while they wait for its next call, and so
  # slow down the graph whose turn it is: two graphs in turn took twice the time on two cores.
  options.add_session_config_entry('session.force_spinning_stop', '1')
  return onnxruntime.InferenceSession(model, options, providers=['CPUExecutionProvider'])


def _running(file: str, call: Callable[[], Any]) -> Any:
  """Calls the runtime, whose exceptions are of no common type; an error names the file."""
  try:
    return call()
  except Exception as error:
    raise ValueError(f'{file}: ONNX Runtime cannot run it ({error}).') from None
