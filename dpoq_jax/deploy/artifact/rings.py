"""The artifact: a manifest and a file per ring; a device holds as many as it has room for.

A ring's file is safetensors: `codes`, the ring's bits of every kernel packed without gaps, and
`floats`, all else that its path reads. Reading needs NumPy and safetensors alone; `network` makes
an onion of what was read. Nothing is believed before it is checked, and what does not check out is
refused whole, with one `ArtifactError` that names the file.
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
from dpoq_jax.deploy import export_folder as folder_lib
from dpoq_jax.deploy.artifact import manifest as manifest_lib
from dpoq_jax.deploy.artifact import packing
from dpoq_jax.deploy.artifact.manifest import FLOAT, ArtifactError, Manifest, Ring
from dpoq_jax.runtime.files import write_whole

_CHUNK = 2**20

# Where the floats of a path are in the variables of a network.
_PARAMS, _STATISTICS = 'params', 'statistics'


class Artifact:
  """The rings read so far of an artifact.

  Attributes:
    folder: where it is.
    manifest: of all its rings, read or not.
    variables: frozen variables of the network at the precisions read, NumPy arrays.
  """

  def __init__(self, folder: pathlib.Path, manifest: Manifest):
    self.folder, self.manifest = folder, manifest
    self.variables: dict[str, Any] = {'params': {}, 'onion': {}}
    self._read = 0

  @property
  def bits(self) -> tuple[int, ...]:
    """The precisions read."""
    return self.manifest.bits[: self._read]

  def upgrade(self) -> None:
    """Reads the next ring, in place: variables and precisions are then those of one more.

    Raises:
      ValueError: if there is none.
      ArtifactError: if it cannot be read; what was read before stays as it was.
    """
    if self._read == len(self.manifest.rings):
      raise ValueError(f'{self.folder} has no ring above {self.bits[-1]} bits.')
    index = self._read
    ring = self.manifest.rings[index]
    codes, floats = _read_ring(self.folder, self.manifest, index)
    bits = self.manifest.bits[: index + 1]
    kernels = {name: _deepened(self._kernel(name), code, bits) for name, code in codes.items()}
    params, statistics = _nested(floats, _PARAMS), _nested(floats, _STATISTICS)
    # All at once, and at the end: nothing is half upgraded.
    self.variables = {
      **self.variables,
      'params': {**self.variables['params'], f'path_{ring.precision}': params},
      f'psbn_{ring.precision}': statistics,
      'onion': _nested({f'onion/{name}': kernel for name, kernel in kernels.items()}, 'onion'),
    }
    self._read += 1

  def _kernel(self, name: str) -> np.ndarray | None:
    """The integers of a kernel so far."""
    found = self.variables['onion']
    for part in name.split('/'):
      if part not in found:
        return None
      found = found[part]
    return found


def load(folder: pathlib.Path, max_bits: int | None = None) -> Artifact:
  """Reads an artifact's manifest and its first rings; files of others need not be there.

  Args:
    folder: the artifact.
    max_bits: bits of the highest precision wanted; all by default.

  Raises:
    ArtifactError: if it is missing, damaged, altered, or of another version.
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
  """Writes an artifact; the same input gives the same files.

  Args:
    folder: made; must not hold anything.
    variables: frozen.
    top1: accuracy of each precision, in [0, 1], if known.
    **known: of `Manifest`: model, quantization, class_names, image_shape,
      multiply_accumulates, operating_points, source.

  Raises:
    FileExistsError: if there is something in the folder.
    ValueError: for variables that hold latents.
  """
  if 'onion' not in variables:
    raise ValueError('these variables hold latents: freeze them first (Onion.freeze).')
  folder_lib.make_empty(folder)
  bits = known['quantization'].bits
  kernels = dict(_flattened(variables['onion']))
  rings = []
  for index, precision in enumerate(bits):
    floats = {
      f'{kind}/{name}': np.asarray(leaf, np.float32)
      for kind, tree in (
        (_PARAMS, variables['params'][f'path_{precision}']),
        (_STATISTICS, variables[f'psbn_{precision}']),
      )
      for name, leaf in _flattened(tree)
    }
    path = folder / f'ring_{precision}.safetensors'
    tensors = {
      'codes': np.concatenate([_packed(kernel, bits, index) for kernel in kernels.values()]),
      'floats': np.concatenate([each.reshape(-1) for each in floats.values()]),
    }
    # Its own way of writing files makes them unreadable to others.
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
  manifest = Manifest(
    kernels={name: kernel.shape for name, kernel in kernels.items()}, rings=tuple(rings), **known
  )
  # Last: a folder without it is no artifact.
  write_whole(folder / manifest_lib.FILE, manifest_lib.to_json(manifest))
  return manifest


def _read_ring(
  folder: pathlib.Path, manifest: Manifest, index: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Codes of every kernel and floats of the path, once the file has been checked."""
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
      # Types and shapes from the header; nothing is taken from the rest yet.
      slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
      found = {name: (s.get_dtype(), *s.get_shape()) for name, s in slices.items()}
      if found != expected:
        raise ValueError(f'it holds {found}, not {expected}')
      packed, floats = file.get_tensor('codes'), file.get_tensor('floats')
    codes, start = {}, 0
    for name, shape in manifest.kernels.items():
      size = packing.packed_size(math.prod(shape), width)
      codes[name] = _unpacked(packed[start : start + size], width, shape)
      start += size
  ends = list(itertools.accumulate(math.prod(shape) for shape in ring.floats.values()))
  pieces = np.split(floats, ends[:-1])
  tensors = {
    name: piece.reshape(shape)
    for (name, shape), piece in zip(ring.floats.items(), pieces, strict=True)
  }
  return codes, tensors


@contextlib.contextmanager
def _refusing(path: pathlib.Path) -> Iterator[None]:
  """Turns whatever is wrong with a file into an `ArtifactError`."""
  try:
    yield
  except OSError as error:
    raise ArtifactError(f'{path} cannot be read: {error.strerror or error}.') from None
  except (ValueError, safetensors.SafetensorError) as error:
    raise ArtifactError(f'{path}: {error}.') from None


def _packed(kernel: np.ndarray, bits: Sequence[int], index: int) -> np.ndarray:
  """Bytes of one ring of a kernel."""
  width = onion.ring_widths(bits)[index]
  if width == FLOAT:
    return np.frombuffer(np.ascontiguousarray(kernel, '<f4').tobytes(), np.uint8)
  return packing.pack_codes(onion.ring(kernel, bits, index), width)


def _unpacked(packed: np.ndarray, width: int, shape: tuple[int, ...]) -> np.ndarray:
  if width == FLOAT:
    return packed.view('<f4').reshape(shape)
  return packing.unpack_codes(packed, width, math.prod(shape)).reshape(shape)


def _deepened(kernel: np.ndarray | None, codes: np.ndarray, bits: Sequence[int]) -> np.ndarray:
  """The integers of a kernel with one ring more."""
  if codes.dtype != np.uint16:
    return codes
  dtype = onion.packed_dtype(bits)
  if kernel is None:
    return codes.astype(dtype)
  width = onion.ring_widths(bits)[-1]
  return (kernel.astype(dtype) << dtype.type(width)) | codes.astype(dtype)


def _sha256(path: pathlib.Path) -> str:
  digest = hashlib.sha256()
  with path.open('rb') as file:
    while chunk := file.read(_CHUNK):
      digest.update(chunk)
  return digest.hexdigest()


def _flattened(tree: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, np.ndarray]]:
  """Leaves by their path, in the order of their names."""
  for name in sorted(tree):
    if isinstance(tree[name], Mapping):
      yield from _flattened(tree[name], f'{prefix}{name}/')
    else:
      yield prefix + name, np.asarray(tree[name])


def _nested(flat: Mapping[str, np.ndarray], kind: str) -> dict[str, Any]:
  """The tree of those leaves that are of a kind."""
  tree: dict[str, Any] = {}
  for path, leaf in flat.items():
    first, *parts = path.split('/')
    if first == kind:
      branch = tree
      for part in parts[:-1]:
        branch = branch.setdefault(part, {})
      branch[parts[-1]] = leaf
  return tree
