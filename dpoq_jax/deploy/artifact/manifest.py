"""Describes an artifact by its `manifest.json`, which is checked before it is used; needs no JAX.

The manifest has the size and the digest of the file of every ring, and a digest of itself: with it
a ring can be refused before it is read.
"""

from collections.abc import Iterator
import contextlib
import itertools
import json
import math
import pathlib
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, Field

from dpoq_jax import config as config_lib
from dpoq_jax import onion
from dpoq_jax.core.names import LOGIT_SCALE, SHIFT_PREFIX
from dpoq_jax.deploy import graph_folder
from dpoq_jax.deploy.artifact import packing
from dpoq_jax.runtime import terminal
from dpoq_jax.runtime.files import check_folder

FILE = graph_folder.MANIFEST
FORMAT = 1

# A file may ask for any number. Real names have 4 parts and 60 letters; ResNet-1202 has 1,202
# kernels, and 10,000 other tensors at the highest of 4 precisions.
_LONGEST, _DEEPEST, _MOST = 256, 16, 2**16

FLOAT = 32
# Most bytes that names, types and offsets of two tensors take in a safetensors file.
_HEADER = 4096

Count = Annotated[int, Field(ge=1, le=2**40)]
# Of 2**40 multiply-adds, in float.
Operations = Annotated[int, Field(ge=0, le=2**50)]
Side = Annotated[int, Field(ge=1, le=2**14)]
Shape = Annotated[tuple[Count, ...], Field(max_length=8)]


def _is_name(name: str) -> str:
  """Refuses what is no name of a tensor: its modules, joined by `/`."""
  parts = name.split('/')
  if len(name) > _LONGEST or len(parts) > _DEEPEST or not all(p and p.isprintable() for p in parts):
    raise ValueError(
      f'a tensor is named by up to {_DEEPEST} parts joined by /, printable and of {_LONGEST} '
      'letters in all'
    )
  return name


TensorName = Annotated[str, AfterValidator(_is_name)]
FloatName = Annotated[str, Field(pattern='^(params|statistics)/.'), AfterValidator(_is_name)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Low = Annotated[float, Field(le=0, allow_inf_nan=False)]
High = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ArtifactError(ValueError):
  """Refuses an artifact that cannot be read or trusted, in one line that names the file."""


class _Record(pydantic.BaseModel):
  """Refuses fields that it does not have."""

  model_config = pydantic.ConfigDict(extra='forbid', frozen=True)


class Ring(_Record):
  """Describes one ring, and the path that reads it.

  Attributes:
    precision: bits of the whole weight with this ring.
    file: name of its file in the folder.
    bytes: size of the file.
    sha256: digest of the file.
    floats: shapes of the path's float32 tensors, by name, in the order in which the file has them:
      normalisation, lateral scales, clips, classifier, scale of the logits below.
    top1: accuracy of this precision, in [0, 1], if known.
  """

  precision: Annotated[int, Field(ge=1, le=FLOAT)]
  file: Annotated[str, Field(pattern=r'^ring_[0-9]{1,2}\.safetensors$')]
  bytes: Count
  sha256: Annotated[str, Field(pattern=r'^[0-9a-f]{64}$')]
  floats: Annotated[dict[FloatName, Shape], Field(max_length=_MOST)]
  top1: Fraction | None = None

  @property
  def float_count(self) -> int:
    """Returns how many numbers `floats` are in all."""
    return sum(map(math.prod, self.floats.values()))


class BitOps(_Record):
  """Describes the BitOPs of one image at a precision, of all paths up to it.

  Attributes:
    convolutions: multiply-adds of convolutions x bits of weights x bits of what is convolved.
    laterals: multiply-adds of merging what lower paths hand up x the bits of both factors.
  """

  convolutions: Operations
  laterals: Operations


class Source(_Record):
  """Describes where the network comes from.

  Attributes:
    dataset: name of the data set it was trained on.
    step: training step of the checkpoint.
  """

  dataset: str
  step: Annotated[int, Field(ge=0)]


class Ranges(_Record):
  """Holds the intervals that the integers of ONNX graphs cover, which take images to measure.

  Attributes:
    images: number of training images they were measured on.
    ends: lowest and highest value of every tensor, by its key (`deploy.onnx.ranges`).
  """

  images: Annotated[int, Field(ge=0, le=2**40)]
  ends: Annotated[dict[TensorName, tuple[Low, High]], Field(max_length=_MOST)]


class Manifest(_Record):
  """Holds the content of `manifest.json`.

  Attributes:
    format: version of the format.
    model: name and arguments of the model of one path.
    quantization: bits, activation bits, merge and what else decides how a path computes.
    class_names: a name for each class.
    image_shape: (height, width, channels) of the input.
    resize: shorter side to which pictures are resized before their centre is taken, pixels; None
      resizes them to `image_shape`.
    multiply_accumulates: multiply-accumulates of one path's convolutions for one image, if known.
    bitops: BitOPs of one image at each precision, if known.
    input_range: lowest and highest pixel, unsigned integers.
    kernels: shapes of the kernels, by name, in the order in which every ring has their codes.
    rings: the rings, from the lowest up.
    ranges: what graphs of integers are made with, if it was measured.
    operating_points: operating points for dynamic inference, `inference.OperatingPoint` as JSON.
    source: data set and step that the network comes from.
  """

  format: Literal[1] = FORMAT
  model: config_lib.Model
  quantization: config_lib.Quantization
  class_names: tuple[str, ...]
  image_shape: tuple[Side, Side, Side]
  resize: Side | None = None
  multiply_accumulates: Count | None = None
  bitops: tuple[BitOps, ...] | None = None
  input_range: tuple[Literal[0], Literal[255]] = (0, 255)
  kernels: Annotated[dict[TensorName, Shape], Field(max_length=_MOST)]
  rings: tuple[Ring, ...]
  ranges: Ranges | None = None
  operating_points: tuple[dict[str, Any], ...] = ()
  source: Source

  @property
  def bits(self) -> tuple[int, ...]:
    """Returns the bit list."""
    return self.quantization.bits

  @property
  def weights(self) -> int:
    """Returns the number of quantized weights, which is that of the codes of every ring."""
    return sum(map(math.prod, self.kernels.values()))

  def code_bytes(self, index: int) -> int:
    """Returns the bytes of the codes of ring `index`; those of a kernel begin at a whole byte."""
    width = onion.ring_widths(self.bits)[index]
    return sum(packing.packed_size(math.prod(shape), width) for shape in self.kernels.values())

  def separate_bytes(self, index: int) -> int:
    """Returns the bytes of an individual network of precision `index`.

    It has whole weights of that precision, and no scales of what lower paths hand up.
    """
    own = sum(
      math.prod(shape)
      for name, shape in self.rings[index].floats.items()
      if not name.rpartition('/')[2].startswith((SHIFT_PREFIX, LOGIT_SCALE))
    )
    return -(-self.weights * self.bits[index] // 8) + 4 * own

  @pydantic.model_validator(mode='after')
  def _agrees(self) -> 'Manifest':
    """Refuses a manifest that contradicts itself."""
    if self.quantization.sharing != 'rings':
      raise ValueError('precisions that share whole kernels have no rings')
    if tuple(ring.precision for ring in self.rings) != self.bits:
      raise ValueError(f'the rings are not those of bits={self.bits}')
    if self.bitops is not None and len(self.bitops) != len(self.bits):
      raise ValueError(f'bitops needs one entry for each of bits={self.bits}')
    if len({ring.file for ring in self.rings}) != len(self.rings):
      raise ValueError('two rings are one file')
    if not self.kernels or not self.class_names:
      raise ValueError('a network has kernels and classes')
    for names in (self.kernels, *(ring.floats for ring in self.rings)):
      # In this order a name is followed by what is within it, if anything is.
      for one, next_one in itertools.pairwise(sorted(name.split('/') for name in names)):
        if one == next_one[: len(one)]:
          raise ValueError(f'{"/".join(one)} is a tensor and holds others')
    for index, ring in enumerate(self.rings):
      # Sizes follow from shapes, so a file that is too large is refused before it is read.
      content = self.code_bytes(index) + 4 * ring.float_count
      if not content <= ring.bytes <= content + _HEADER:
        raise ValueError(f'{ring.file}: {ring.bytes} bytes are not what its tensors take')
    for point in self.operating_points:
      if point.get('bits') != list(self.bits):
        raise ValueError(f'an operating point is for bits={point.get("bits")}')
    return self


def to_json(manifest: Manifest) -> str:
  """Returns the text of `manifest.json`, with its digest."""
  content = manifest.model_dump(mode='json')
  return json.dumps({'sha256': graph_folder.digest(content), **content}, indent=1) + '\n'


def read(folder: pathlib.Path) -> Manifest:
  """Reads the manifest of an artifact.

  Raises:
    ArtifactError: if the manifest is missing, altered, of another format, or contradicts itself.
  """
  path = folder / FILE
  try:
    check_folder(folder)
  except OSError as error:
    raise ArtifactError(str(error)) from None
  try:
    content = graph_folder.read_content(path, 'an artifact', 'rings', FORMAT)
  except FileNotFoundError:
    raise ArtifactError(f'{folder} has no {FILE}: give a folder that dpoq export wrote.') from None
  except OSError as error:
    raise ArtifactError(f'{path} cannot be read: {error.strerror}.') from None
  except ValueError as error:
    raise ArtifactError(str(error)) from None
  with refusing(path):
    # From text: JSON has no tuples, which pydantic asks for elsewhere.
    return Manifest.model_validate_json(json.dumps(content))


@contextlib.contextmanager
def refusing(path: pathlib.Path) -> Iterator[None]:
  """Turns what is wrong with a manifest into an `ArtifactError` that names its first bad field."""
  try:
    yield
  except pydantic.ValidationError as error:
    first = error.errors(include_url=False, include_context=False)[0]
    # The place is given by keys of the file, in which there may be anything.
    where = terminal.one_line('.'.join(map(str, first['loc'])))
    reason = terminal.one_line(first['msg'].removeprefix('Value error, '))
    raise ArtifactError(f'{path}: {where + ": " if where else ""}{reason}.') from None
