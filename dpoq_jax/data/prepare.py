"""Writes a data set as a TFDS `array_record` directory, without TensorFlow.

The directory D/cifar10/3.0.2 is the one TFDS itself would write: the TFDS builder decides features,
splits, keys and shards. Only two of its parts are replaced, those that call TensorFlow: the reading
of the official binary batches, and the encoding of PNGs. `tfds.data_source` reads the directory
like any other.
"""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import dataclasses
import hashlib
import http.client
import io
import pathlib
import shutil
import sys
import tarfile
import tempfile
import types
from typing import Any, cast
import urllib.request

import numpy as np

from dpoq_jax.data import in_memory, tfds_directory


@dataclasses.dataclass(frozen=True)
class Archive:
  """Describes an official archive of binary batches, with the published sha256 of its files.

  Attributes:
    url: address at which the archive is published.
    sha256: checksum of the archive.
    folder: name of the folder that it unpacks to.
    batches: checksum of every file of binary records, by file name.
    label_names: number of classes in every file of class names, one name a line, by file name.
  """

  url: str
  sha256: str
  folder: str
  batches: dict[str, str]
  label_names: dict[str, int]


ARCHIVES = {
  'cifar10': Archive(
    url='https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz',
    sha256='c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd',
    folder='cifar-10-batches-bin',
    batches={
      'data_batch_1.bin': 'cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5',
      'data_batch_2.bin': 'a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed',
      'data_batch_3.bin': 'bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67',
      'data_batch_4.bin': '014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48',
      'data_batch_5.bin': '755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add',
      'test_batch.bin': '8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b',
    },
    label_names={'batches.meta.txt': 10},
  ),
  'cifar100': Archive(
    url='https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz',
    sha256='58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec',
    folder='cifar-100-binary',
    batches={
      'train.bin': 'f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29',
      'test.bin': 'd8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a',
    },
    label_names={'coarse_label_names.txt': 20, 'fine_label_names.txt': 100},
  ),
}


def prepare(name: str, data_dir: str | None = None, source: str | None = None) -> str:
  """Writes a data set unless it is there already.

  The directory gets its final name only when it is whole; what a killed run leaves behind is
  called `incomplete.*` and may be deleted.

  Args:
    name: one of `in_memory.DATASETS`.
    data_dir: directory of all TFDS data sets; None for TFDS's default.
    source: folder of the official binary batches or its parent; None downloads the archive, which
      is kept in `data_dir`/downloads.

  Returns:
    One line that says what was done.

  Raises:
    ValueError: for an unknown name, or a file that is not the published one.
    FileNotFoundError: for a file that is missing, or a data set that is there but not whole.
    ConnectionError: if the archive cannot be downloaded.
  """
  version = in_memory.find_spec(name).tfds_version
  if version is None:
    return f'data set {name} is embedded: it needs no files and no preparation'
  path = tfds_directory.prepared_dir(name, version, data_dir)
  if path.exists():
    tfds_directory.check_prepared(name, path)
    return f'data set {name} is already in {path}'
  archive = ARCHIVES[name]
  root = path.parent.parent
  root.mkdir(parents=True, exist_ok=True)
  if source is not None:
    _write(name, root, _find_batches(archive, pathlib.Path(source).expanduser()))
  else:
    downloaded = _download(archive, root / 'downloads')
    with tempfile.TemporaryDirectory(prefix='incomplete.', dir=root) as unpacked:
      with tarfile.open(downloaded) as tar:
        # Refuses paths outside the folder, from Python 3.11.4 on; before, the checksum has to do.
        tar.extraction_filter = getattr(tarfile, 'data_filter', None)
        tar.extractall(unpacked)
      _write(name, root, _find_batches(archive, pathlib.Path(unpacked)))
  return f'data set {name} written to {path}'


def _find_batches(archive: Archive, source: pathlib.Path) -> pathlib.Path:
  """Returns the folder that holds the files of `archive`, every one of them verified."""
  folder = source
  if not any((source / batch).exists() for batch in archive.batches):
    folder = source / archive.folder
  if not folder.is_dir():
    raise FileNotFoundError(
      f'{source} holds neither {archive.folder}/ nor {next(iter(archive.batches))}: unpack '
      f'{archive.url} there'
    )
  for name in (*archive.batches, *archive.label_names):
    if not (folder / name).is_file():
      raise FileNotFoundError(f'{folder / name} is missing: unpack {archive.url} again')
  for name, published in archive.batches.items():
    if _sha256(folder / name) != published:
      raise ValueError(
        f'{folder / name} is not the published file ({(folder / name).stat().st_size:,} bytes, '
        f'sha256 differs): unpack {archive.url} again'
      )
  for name, count in archive.label_names.items():
    found = len((folder / name).read_text().split())
    if found != count:
      raise ValueError(f'{folder / name} names {found} classes, not {count}')
  return folder


def _sha256(path: pathlib.Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _download(archive: Archive, directory: pathlib.Path) -> pathlib.Path:
  """Downloads the archive unless it is there already, and returns its path.

  This is not left to the download manager of TFDS, which tries for more than three minutes before
  it says that there is no network.
  """
  from rich import progress

  from dpoq_jax.runtime.console import Console

  stderr = Console(stderr=True)
  path = directory / archive.url.rpartition('/')[2]
  if path.exists() and _sha256(path) == archive.sha256:
    return path
  partial = path.with_name(f'{path.name}.part')
  try:
    with urllib.request.urlopen(archive.url, timeout=30) as response:
      directory.mkdir(parents=True, exist_ok=True)
      size = int(response.headers.get('Content-Length', 0))
      with (
        progress.wrap_file(response, size, description=path.name, console=stderr) as incoming,
        partial.open('wb') as file,
      ):
        shutil.copyfileobj(incoming, file, 1 << 20)
  except (OSError, http.client.HTTPException) as error:
    raise ConnectionError(
      f'cannot download {archive.url} ({error}): where there is no network, unpack it by hand and '
      'pass --source=FOLDER'
    ) from error
  if _sha256(partial) != archive.sha256:
    raise ValueError(
      f'{partial} is not the published {path.name} ({partial.stat().st_size:,} bytes, sha256 '
      'differs): run the same command again'
    )
  return partial.replace(path)


def _write(name: str, root: pathlib.Path, folder: pathlib.Path) -> None:
  """Lets the TFDS builder write the binary batches in `folder` as records."""
  write_records(name, root, lambda: _builder(name, root, folder))


def write_records(name: str, root: pathlib.Path, build: Callable[[], Any]) -> None:
  """Lets a TFDS builder write its data set.

  Args:
    name: name of the data set, for messages.
    root: directory of all TFDS data sets.
    build: function that makes the builder.

  Raises:
    OSError: if it cannot be written.
  """
  from absl import logging
  import tensorflow_datasets as tfds

  # The warnings only say that the data set does not exist yet.
  logging.set_verbosity(logging.ERROR)
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()
  builder = build()
  # On standard output it announces a download, of unknown size, that does not take place; its
  # progress goes to standard error.
  with contextlib.redirect_stdout(io.StringIO()):
    try:
      builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
      )
    except RuntimeError as error:  # Raised by array_record, when the disk is full for example.
      raise OSError(f'cannot write data set {name} to {root}: {error}') from error


def _builder(name: str, root: pathlib.Path, folder: pathlib.Path) -> Any:
  """Returns a TFDS builder of `name` that reads `folder` and encodes PNGs without TensorFlow."""
  import tensorflow_datasets as tfds

  base = cast(Any, tfds.builder_cls(name))

  # Not registered, as TFDS would then know two data sets of one name.
  class Builder(base, skip_registration=True):  # pyright: ignore[reportGeneralTypeIssues, reportCallIssue]
    """Reads batches and encodes images by itself; everything else is inherited."""

    name = base.name
    __module__ = base.__module__  # Written to dataset_info.json as the origin of the data set.

    @property
    def _cifar_info(self) -> Any:
      return super()._cifar_info._replace(prefix='')

    def _split_generators(self, dl_manager: Any) -> Any:
      del dl_manager  # The batches are in `folder` already.
      local = types.SimpleNamespace(download_and_extract=lambda url: str(folder))
      return super()._split_generators(local)

    def _generate_examples(
      self, split_prefix: str, filepaths: Iterable[str]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
      label_keys = self._cifar_info.label_keys
      records = (record for path in filepaths for record in _records(path, len(label_keys)))
      for index, (labels, image) in enumerate(records):
        features = {'id': f'{split_prefix}{index:05d}', 'image': _encode_png(image)}
        yield index, features | dict(zip(label_keys, labels, strict=True))

  return Builder(data_dir=root, file_format='array_record')


def _records(path: str, num_labels: int) -> Iterator[tuple[list[int], np.ndarray]]:
  """Yields the labels and the image, uint8 [32, 32, 3], of each record of a binary batch.

  A record is one byte for each of `num_labels` labels, then the red, green and blue planes.
  """
  for record in np.fromfile(path, np.uint8).reshape(-1, num_labels + 3 * 32 * 32):
    labels, pixels = np.split(record, [num_labels])
    yield labels.tolist(), pixels.reshape(3, 32, 32).transpose(1, 2, 0)


def _encode_png(image: np.ndarray) -> bytes:
  from PIL import Image

  png = io.BytesIO()
  # Level 1 takes half the time of the default and, for images this small, 2 % more bytes.
  Image.fromarray(np.ascontiguousarray(image)).save(png, 'png', compress_level=1)
  return png.getvalue()
