"""TFDS directories of small JPEGs, written by the TFDS builder, without TensorFlow."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import io
import pathlib
from typing import Any

from absl import logging
import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

CLASSES = ('cat', 'dog', 'onion')
SPLITS = {'train': 60, 'validation': 13}


def encode(image: Image.Image, kind: str = 'jpeg') -> bytes:
  encoded = io.BytesIO()
  image.save(encoded, kind)
  return encoded.getvalue()


def picture(rng: np.random.Generator, width: int, height: int) -> Image.Image:
  """Smooth colours: what a JPEG keeps."""
  coarse = rng.integers(0, 256, (4, 5, 3), np.uint8)
  return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def examples(split: str) -> Iterator[dict[str, Any]]:
  """Images of assorted sizes; the class is that of the number in the file name, modulo 3."""
  rng = np.random.default_rng(len(split))
  for number in range(SPLITS[split]):
    width, height = rng.integers(24, 120, 2).tolist()
    name = f'{split}_{number:03}.JPEG'
    image = encode(picture(rng, width, height))
    yield {'image': image, 'label': number % len(CLASSES), 'file_name': name}


def write(
  data_dir: pathlib.Path,
  splits: Mapping[str, Sequence[dict[str, Any]]] | None = None,
  features: Mapping[str, Any] | None = None,
  name: str = 'tiny_imagenet',
) -> pathlib.Path:
  """Writes a data set; returns its version directory."""
  data_dir.mkdir(parents=True, exist_ok=True)
  given = splits or {split: list(examples(split)) for split in SPLITS}
  described = features or {
    'image': tfds.features.Image(encoding_format='jpeg'),
    'label': tfds.features.ClassLabel(names=CLASSES),
    'file_name': tfds.features.Text(),
  }

  class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # pyright: ignore[reportGeneralTypeIssues, reportCallIssue]
    VERSION = tfds.core.Version('1.0.0')
    pkg_dir_path = data_dir  # pyright: ignore[reportAssignmentType]

    def _info(self):
      return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(described))

    def _split_generators(self, dl_manager):
      del dl_manager
      return {split: enumerate(records) for split, records in given.items()}

    def _generate_examples(self):
      raise NotImplementedError

  Builder.name = name
  logging.set_verbosity(logging.ERROR)
  with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    Builder(data_dir=data_dir, file_format='array_record').download_and_prepare(
      download_config=tfds.download.DownloadConfig(try_download_gcs=False, num_shards=2)
    )
  return data_dir / name / '1.0.0'


def damage(version: pathlib.Path, split: str, number: int) -> int:
  """Flips a bit in the image of an example, so that its record fails its checksum.

  That of the first from `number` on which is stored as it is, not compressed; returns its number.
  """
  shards = list(version.glob(f'*-{split}.array_record-*'))
  for found, example in list(enumerate(examples(split)))[number:]:
    # All files begin with the same tables.
    middle = example['image'][len(example['image']) // 2 :][:32]
    for shard in shards:
      content = bytearray(shard.read_bytes())
      position = content.find(middle)
      if position >= 0:
        content[position] ^= 1
        shard.write_bytes(content)
        return found
  raise AssertionError(f'no image of {split} from {number} on is stored as it is')
