"""Writes and reads artifacts: a manifest and a file per ring; a device holds the first few rings.

A ring's file is safetensors: `codes`, the ring's bits of every kernel packed without gaps, and
`floats`, all else that its path reads. Reading needs no JAX; `in_jax` makes a network of what was
read. Every file is checked before anything of it is used, and one that does not check out is
refused whole, with an `ArtifactError` that names it.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import hashlib
import itertools
import math
import pathlib
import stat
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from dpoq_jax import onion
from dpoq_jax.core.names import ONION, path_name, statistics_collection
from dpoq_jax.deploy import export_folder
from dpoq_jax.deploy.artifact import manifest as manifest_lib
from dpoq_jax.deploy.artifact import packing
from dpoq_jax.deploy.artifact.manifest import FLOAT, ArtifactError, Manifest, Ring
from dpoq_jax.runtime.files import write_whole

# First part of the names of floats: a path's parameters, and its running statistics.
_PARAMS, _STATISTICS = 'params', 'statistics'


class Artifact:
  """Holds the rings of an artifact that were read so far, from the lowest up.

  Attributes:
    folder: the folder of the artifact.
    manifest: the manifest, which describes all rings, read or not.
    variables: frozen variables of the network at the precisions read, NumPy arrays.
  """

  def __init__(self, folder: pathlib.Path, manifest: Manifest) -> None:
    """Takes a folder and its manifest; no ring is read yet."""
    self.folder, self.manifest = folder, manifest
    self.variables: dict[str, Any] = {'params': {}, ONION: {}}
    self._read = 0

  @property
  def bits(self) -> tuple[int, ...]:
    """Returns the precisions read."""
    return self.manifest.bits[: self._read]

  def __repr__(self) -> str:
    """Returns where it is and what was read of it, in a line."""
    return f'Artifact({self.folder}, bits {self.bits} of {self.manifest.bits} read)'

  def upgrade(self) -> None:
    """Reads the next ring: `variables` and `bits` then have one precision more.

    Raises:
      ValueError: if there is no further ring.
      ArtifactError: if the ring cannot be read; what was read before stays as it was.
    """
    if self._read == len(self.manifest.rings):
      raise ValueError(f'{self.folder} has no ring above {self.bits[-1]} bits.')
    index = self._read
    ring = self.manifest.rings[index]
    codes, floats = _read_ring(self.folder, self.manifest, index)
    bits = self.manifest.bits[: index + 1]
    kernels = {name: _deepened(self._kernel(name), code, bits) for name, code in codes.items()}
    tree = _nested(floats)
    params = {path_name(ring.precision): tree.get(_PARAMS, {})}
    # Assigned at once, and last, so that an upgrade that fails changes nothing.
    self.variables = {
      **self.variables,
      'params': {**self.variables['params'], **params},
      statistics_collection(ring.precision): tree.get(_STATISTICS, {}),
      ONION: _nested(kernels),
    }
    self._read += 1

  def _kernel(self, name: str) -> np.ndarray | None:
    """Returns the integers of a kernel at the precisions read; None before the first ring."""
    found = self.variables[ONION]
    for part in name.split('/'):
      if part not in found:
        return None
      found = found[part]
    return found


def load(folder: pathlib.Path, max_bits: int | None = None) -> Artifact:
  """Reads an artifact's manifest and its first rings; the files of other rings need not be there.

  Args:
    folder: the folder of the artifact.
    max_bits: most bits of a precision that is read; all are by default.

  Raises:
    ArtifactError: if the artifact is missing, damaged, altered, or of another version.
    ValueError: if even the lowest precision has more bits.
  """
  manifest = manifest_lib.read(folder)
  wanted = [b for b in manifest.bits if max_bits is None or b <= max_bits]
  if not wanted:
    raise ValueError(f'max_bits={max_bits}: the precisions of {folder} are {manifest.bits}.')
  artifact = Artifact(folder, manifest)
  for _ in wanted:
    artifact.upgrade()
  return artifact


def write(
  folder: pathlib.Path,
  variables: Mapping[str, Any],
  *,
  top1: Mapping[int, float] | None = None,
  **known: Any,
) -> Manifest:
  """Writes an artifact; the same input gives the same files, byte for byte.

  Args:
    folder: the folder, which is made; it must not hold anything.
    variables: frozen variables.
    top1: accuracy of each precision, in [0, 1], if known.
    **known: fields of `Manifest`: model, quantization, class_names, image_shape, resize,
      multiply_accumulates, bitops, ranges, operating_points, source.

  Returns:
    The manifest.

  Raises:
    FileExistsError: if there is something in the folder.
    ValueError: for variables that hold latents.
  """
  export_folder.make_for_frozen(folder, variables)
  bits = known['quantization'].bits
  kernels = dict(export_folder.flattened(variables[ONION]))
  rings: list[Ring] = []
  for index, precision in enumerate(bits):
    floats = {
      f'{kind}/{name}': np.asarray(leaf, np.float32)
      for kind, tree in (
        (_PARAMS, variables['params'][path_name(precision)]),
        (_STATISTICS, variables[statistics_collection(precision)]),
      )
      for name, leaf in export_folder.flattened(tree)
    }
    path = folder / f'ring_{precision}.safetensors'
    tensors = {
      'codes': np.concatenate([_packed(kernel, bits, index) for kernel in kernels.values()]),
      'floats': np.concatenate([each.reshape(-1) for each in floats.values()]),
    }
    # Not `save_file`, which makes files that only their owner can read.
    path.write_bytes(safetensors.numpy.save(tensors))
    rings.append(
      Ring(
        precision=precision,
        file=path.name,
        bytes=path.stat().st_size,
        sha256=_sha256(path),
        floats={name: each.shape for name, each in floats.items()},
        top1=None if top1 is None else top1[precision],
      )
    )
  path = folder / manifest_lib.FILE
  with manifest_lib.refusing(path):
    shapes = {name: kernel.shape for name, kernel in kernels.items()}
    manifest = Manifest(kernels=shapes, rings=tuple(rings), **known)
  # The manifest is the last file: a folder without it is no artifact.
  write_whole(path, manifest_lib.to_json(manifest))
  return manifest


def _read_ring(
  folder: pathlib.Path, manifest: Manifest, index: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Checks the file of a ring; returns the codes of every kernel and the floats of its path."""
  ring, width = manifest.rings[index], onion.ring_widths(manifest.bits)[index]
  path = folder / ring.file
  with _refusing(path):
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size != ring.bytes:
      raise ValueError(f'it is not a file of {ring.bytes} bytes')
    if _sha256(path) != ring.sha256:
      raise ValueError('it was altered: its digest is not that of the manifest')
    expected = {'codes': ('U8', manifest.code_bytes(index)), 'floats': ('F32', ring.float_count)}
    with safetensors.safe_open(path, framework='np') as file:
      # Types and shapes are in the header: they are checked before any tensor is read.
      slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
      found = {name: (s.get_dtype(), *s.get_shape()) for name, s in slices.items()}
      if found != expected:
        raise ValueError(f'it holds {found}, not {expected}')
      packed: np.ndarray = file.get_tensor('codes')
      floats: np.ndarray = file.get_tensor('floats')
    codes: dict[str, np.ndarray] = {}
    start = 0
    for name, shape in manifest.kernels.items():
      size = packing.packed_size(math.prod(shape), width)
      codes[name] = _unpacked(packed[start : start + size], width, shape)
      start += size
  ends = list(itertools.accumulate(math.prod(shape) for shape in ring.floats.values()))
  # What is after the last one is empty.
  pieces: list[np.ndarray] = np.split(floats, ends)[:-1]
  tensors = {
    name: piece.reshape(shape)
    for (name, shape), piece in zip(ring.floats.items(), pieces, strict=True)
  }
  return codes, tensors


@contextlib.contextmanager
def _refusing(path: pathlib.Path) -> Iterator[None]:
  """Turns any error in reading a file into an `ArtifactError` that names it."""
  try:
    yield
  except OSError as error:
    raise ArtifactError(f'{path} cannot be read: {error.strerror or error}.') from None
  except (ValueError, safetensors.SafetensorError) as error:
    raise ArtifactError(f'{path}: {error}.') from None


def _packed(kernel: np.ndarray, bits: Sequence[int], index: int) -> np.ndarray:
  """Returns the bytes of one ring of a kernel."""
  width = onion.ring_widths(bits)[index]
  if width == FLOAT:
    return np.frombuffer(np.ascontiguousarray(kernel, '<f4').tobytes(), np.uint8)
  return packing.pack_codes(onion.ring(kernel, bits, index), width)


def _unpacked(packed: np.ndarray, width: int, shape: tuple[int, ...]) -> np.ndarray:
  """Returns the codes of one ring of a kernel; the kernel itself in a 32-bit network."""
  if width == FLOAT:
    return packed.view('<f4').reshape(shape)
  return packing.unpack_codes(packed, width, math.prod(shape)).reshape(shape)


def _deepened(kernel: np.ndarray | None, codes: np.ndarray, bits: Sequence[int]) -> np.ndarray:
  """Returns the integers of a kernel with one ring more.

  Args:
    kernel: integers at the precision below; None for the first ring.
    codes: codes of the ring, uint16; a float kernel is returned as it is.
    bits: the bit list up to this ring.
  """
  if codes.dtype != np.uint16:
    return codes
  dtype = onion.packed_dtype(bits)
  if kernel is None:
    return codes.astype(dtype)
  width = onion.ring_widths(bits)[-1]
  return (kernel.astype(dtype) << dtype.type(width)) | codes.astype(dtype)


def _sha256(path: pathlib.Path) -> str:
  """Returns the SHA-256 digest of a file."""
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _nested(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Returns leaves as nested dicts, by their names joined by `/`."""
  tree: dict[str, Any] = {}
  for name, leaf in flat.items():
    *parents, last = name.split('/')
    branch = tree
    for parent in parents:
      branch = branch.setdefault(parent, {})
    branch[last] = leaf
  return tree
