"""Opens what labels images: a finished run, an artifact, a network that comes with the library."""

from collections.abc import Mapping
import dataclasses
import functools
import json
import os
import pathlib
from typing import Any

import numpy as np

from dpoq_jax import from_run, pretrained
from dpoq_jax.deploy.artifact import in_jax, rings
from dpoq_jax.deploy.artifact import manifest as manifest_lib
from dpoq_jax.inference import operating_point
from dpoq_jax.inference.cascade import Cascade
from dpoq_jax.inference.operating_point import OperatingPoint
from dpoq_jax.inference.pools import Result
from dpoq_jax.network.onion_network import Onion
from dpoq_jax.training import metrics
from dpoq_jax.training.trained_network import Step


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Classifier:
  """Labels images by a trained network, each at the lowest precision that is sure of it.

      classifier = dpoq_jax.load('runs/cifar10')
      result = classifier(images)
      names = [classifier.class_names[label] for label in result.labels]

  Attributes:
    network: the network.
    variables: its variables, frozen.
    class_names: a name for each class.
    image_shape: (height, width, channels) of its images.
    resize: shorter side to which files are resized before their centre is taken, pixels; None
      resizes them to `image_shape`.
    operating_point: thresholds, and what exits predict; None if none was chosen yet.
    top1: accuracy of each precision on its test set, in [0, 1]; empty if it is not known.
  """

  network: Onion
  variables: Mapping[str, Any]
  class_names: tuple[str, ...]
  image_shape: tuple[int, int, int]
  resize: int | None = None
  operating_point: OperatingPoint | None = None
  top1: Mapping[int, float] = dataclasses.field(default_factory=dict)

  @property
  def bits(self) -> tuple[int, ...]:
    """Returns the precisions, from the lowest up."""
    return self.network.bits

  @functools.cached_property
  def cascade(self) -> Cascade:
    """Returns what runs the network; without an operating point, at the highest precision alone."""
    return Cascade(self.network, self.variables, self.operating_point or self.static(self.bits[-1]))

  def static(self, precision: int) -> OperatingPoint:
    """Returns the operating point at which everything is run at one precision.

    Raises:
      ValueError: for a precision that the network does not have.
    """
    return operating_point.static(self.bits, precision, self._bitops)

  @functools.cached_property
  def _bitops(self) -> tuple[int, ...]:
    """Returns the BitOPs of one image that leaves at each precision."""
    return from_run.bitops(self.network, self.image_shape)

  def __call__(
    self, images: np.ndarray, *, precision: int | None = None, max_precision: int | None = None
  ) -> Result:
    """Labels images.

    Args:
      images: uint8 [batch, height, width, channels], of `image_shape`. The `cascade` takes images
        of other sizes, too, where the model does: what a network says of them is not known.
      precision: bits to run everything at, in place of the operating point.
      max_precision: bits of the last precision to run, where inputs are to be cut short.

    Raises:
      ValueError: for anything but such images, or a precision that the network does not have.
    """
    shape = np.shape(images)
    if shape[1:] != self.image_shape:
      raise ValueError(
        f'images of shape {list(shape)}: give [batch, {", ".join(map(str, self.image_shape))}].'
      )
    point = None if precision is None else self.static(precision)
    return self.cascade(images, operating_point=point, max_precision=max_precision)

  def __repr__(self) -> str:
    """Returns what it is, in a line."""
    accuracies = ', '.join(f'{b} bits {100 * top1:.1f} %' for b, top1 in self.top1.items())
    shape = 'x'.join(map(str, self.image_shape))
    return (
      f'Classifier({len(self.class_names)} classes, images {shape}, '
      f'{accuracies or f"bits {self.bits}"}, '
      f'{"with" if self.operating_point else "without"} an operating point)'
    )


def load(
  path: str | os.PathLike[str],
  *,
  max_bits: int | None = None,
  step: Step | None = None,
  point: OperatingPoint | None = None,
  precision: int | None = None,
) -> Classifier:
  """Opens a trained network: the directory of a run, or the folder of an artifact.

  Args:
    path: directory of a finished run, or folder that `dpoq export` wrote rings to.
    max_bits: most bits of a precision that is kept; all are by default. Of an artifact, the files
      of other rings need not be there.
    step: checkpoint of a run; that of the operating point by default, or the newest intact one.
    point: operating point to use; by default the one that is kept beside the network, if any.
    precision: bits to run everything at, in place of an operating point. A run whose precisions
      share whole kernels has no cascade, and is opened so alone.

  Raises:
    FileNotFoundError: if there is neither.
    ArtifactError, CheckpointError, ConfigError: if it cannot be read.
    ValueError: if the operating point is of another network, no precision has so few bits, or a
      checkpoint of an artifact is asked for.
  """
  path = pathlib.Path(path).expanduser()
  if (path / manifest_lib.FILE).exists():
    if step is not None:
      raise ValueError(
        f'step={step}: {path} is an artifact, which has no checkpoints; leave it out.'
      )
    opened = _of_artifact(path, max_bits, point)
  elif path.is_dir():
    opened = _of_run(path, max_bits, step, point, precision)
  else:
    raise FileNotFoundError(f'there is no {path}: give the directory of a run, or an artifact.')
  if precision is None:
    return opened
  return dataclasses.replace(opened, operating_point=opened.static(precision))


def load_pretrained(name: str, *, max_bits: int | None = None) -> Classifier:
  """Opens a network that comes with the library.

  Args:
    name: one of `dpoq_jax.pretrained.names()`, such as `cifar10_resnet20`.
    max_bits: most bits of a precision that is kept; all are by default.

  Raises:
    ValueError: if there is no network of this name, or no precision has so few bits.
  """
  return load(pretrained.folder(name), max_bits=max_bits)


def _of_run(
  path: pathlib.Path,
  max_bits: int | None,
  step: Step | None,
  point: OperatingPoint | None,
  precision: int | None,
) -> Classifier:
  """Opens a run."""
  if precision is None and point is None:
    point = from_run.read_operating_point(path)
  trained = from_run.open_network(path, step, point, precision)
  network, variables = trained.network, trained.variables
  if max_bits is not None:
    count = _count(network.bits, max_bits, path)
    network, variables = network.cut(variables, network.bits[count - 1])
  top1 = metrics.top1_at(metrics.read_rows(path), trained.step) or {}
  return Classifier(
    network,
    variables,
    trained.facts.class_names,
    trained.facts.image_shape,
    trained.config.data.resize,
    point and point.lowest(len(network.bits)),
    {b: top1[b] for b in network.bits if b in top1},
  )


def _of_artifact(
  path: pathlib.Path, max_bits: int | None, point: OperatingPoint | None
) -> Classifier:
  """Opens an artifact."""
  artifact = rings.load(path, max_bits)
  manifest = artifact.manifest
  if point is not None:
    _check_point(point, artifact)
  elif manifest.operating_points:
    try:
      point = operating_point.from_json(json.dumps(manifest.operating_points[0]))
    except ValueError as error:
      raise manifest_lib.ArtifactError(f'{path / manifest_lib.FILE}: {error}') from None
  read = manifest.rings[: len(artifact.bits)]
  return Classifier(
    in_jax.network_of(artifact),
    artifact.variables,
    manifest.class_names,
    manifest.image_shape,
    manifest.resize,
    point and point.lowest(len(artifact.bits)),
    {ring.precision: ring.top1 for ring in read if ring.top1 is not None},
  )


def _check_point(point: OperatingPoint, artifact: rings.Artifact) -> None:
  """Refuses an operating point of another network than an artifact holds, as `from_run` does.

  Raises:
    ValueError: if it was chosen on another data set or for other bits.
  """
  manifest, source = artifact.manifest, artifact.manifest.source
  point.checkpoint_for(source.dataset, source.step)
  # One of the precisions that are read alone is of the smaller network.
  if point.bits not in (manifest.bits, artifact.bits):
    raise ValueError(
      f'the operating point is for bits={point.bits}, the network in {artifact.folder} has '
      f'{manifest.bits}.'
    )
  from_run.warn_of_other_step(point, source.step)


def _count(bits: tuple[int, ...], max_bits: int, path: pathlib.Path) -> int:
  """Returns the number of precisions of at most `max_bits` bits."""
  count = sum(b <= max_bits for b in bits)
  if not count:
    raise ValueError(f'max_bits={max_bits}: the precisions of {path} are {bits}.')
  return count
