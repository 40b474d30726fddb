"""Brings the runtime of a page, onnxruntime-web: by npm, or from a folder where there is none."""

from collections.abc import Callable
import hashlib
import pathlib
import shutil
import subprocess
import tarfile
import tempfile
from typing import NamedTuple

NAME, VERSION = 'onnxruntime-web', '1.30.0'
"""Package of npm, and its version."""

# The build for WebAssembly alone: the one for WebGPU is twice as large, and has no QLinearConv.
FILES = {
  'ort.wasm.bundle.min.mjs': '11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90',
  'ort-wasm-simd-threaded.wasm': '3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2',
}
"""Files that are taken from `dist` in the package, script and program, and their SHA-256."""

_SECONDS = 600
_OR_A_FOLDER = f'or give --runtime=DIR, a folder with {NAME} {VERSION}, unpacked'


class Runtime(NamedTuple):
  """Holds the files of the runtime.

  Attributes:
    script: module of JavaScript, which starts the program.
    program: WebAssembly.
  """

  script: bytes
  program: bytes


def read(folder: pathlib.Path) -> Runtime:
  """Reads the runtime from the folder of the package, or from `dist` in it.

  Raises:
    OSError: if a file cannot be read.
    ValueError: if it is that of another version.
  """
  inside = folder / 'dist'
  held = inside if inside.is_dir() else folder
  return _checked(lambda name: (held / name).read_bytes(), str(folder))


def from_npm() -> Runtime:
  """Brings the runtime by `npm pack`, from the registry that npm is configured for.

  Raises:
    ValueError: if there is no npm, it fails, or the files are not those of this version.
  """
  npm, package = shutil.which('npm'), f'{NAME}@{VERSION}'
  if npm is None:
    raise ValueError(f'npm, which brings {NAME}, is not on PATH: install Node.js, {_OR_A_FOLDER}.')
  with tempfile.TemporaryDirectory() as folder:
    command = [npm, 'pack', package, '--ignore-scripts', '--silent']
    try:
      done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=_SECONDS
      )
    except subprocess.TimeoutExpired:
      raise ValueError(
        f'npm did not bring {package} in {_SECONDS} s: try again, {_OR_A_FOLDER}.'
      ) from None
    files = list(pathlib.Path(folder).glob('*.tgz'))
    if done.returncode or len(files) != 1:
      said = ' '.join(done.stderr.split())[-300:] or f'exit status {done.returncode}'
      raise ValueError(f'npm could not bring {package} ({said}): {_OR_A_FOLDER[3:]}.')
    with tarfile.open(files[0]) as archive:
      return _checked(lambda name: _member(archive, f'package/dist/{name}'), package)


def _checked(read_file: Callable[[str], bytes], where: str) -> Runtime:
  """Reads both files; refuses any but those whose digests are known."""
  contents: list[bytes] = []
  for name, digest in FILES.items():
    content = read_file(name)
    if hashlib.sha256(content).hexdigest() != digest:
      raise ValueError(f'{name} in {where} is not that of {NAME} {VERSION}, whose digest is known.')
    contents.append(content)
  return Runtime(*contents)


def _member(archive: tarfile.TarFile, name: str) -> bytes:
  """Returns the content of a file of an archive."""
  try:
    file = archive.extractfile(name)
  except KeyError:
    file = None
  if file is None:
    raise ValueError(f'{NAME} {VERSION} as npm brought it has no {name}.')
  with file:
    return file.read()
