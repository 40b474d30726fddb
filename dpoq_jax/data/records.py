"""Reads single records of a TFDS directory, or says what is wrong with them."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, cast

import numpy as np

from dpoq_jax.data import corrupt

# What data sets call the file that a record was made of.
_FILE_NAMES = ('file_name', 'filename', 'image/filename')


@dataclasses.dataclass(frozen=True)
class Records:
  """One split of a TFDS directory, opened when it is first read; small enough to be pickled.

  Attributes:
    path: the version directory.
    split: name of the split.
  """

  path: str
  split: str

  @functools.cached_property
  def source(self) -> Any:
    """What gives a record, its image still encoded, for an index."""
    import tensorflow_datasets as tfds

    builder = cast(Any, tfds.builder_from_directory(self.path))
    return builder.as_data_source(self.split, decoders={'image': tfds.decode.SkipDecoding()})

  def load(
    self, index: int, crop_image: Callable[[bytes], np.ndarray]
  ) -> tuple[np.ndarray, int] | corrupt.CorruptRecord:
    """The cropped image and the label of a record, or what is wrong with it."""
    name = f'{self.split} record {index}'
    try:
      record = self.source[index]
      name += ''.join(f' ({_text(record[key])})' for key in _FILE_NAMES if key in record)
      label, classes = int(record['label']), self.source.dataset_info.features['label'].num_classes
      if not 0 <= label < classes:
        raise ValueError(f'label {label} is none of {classes} classes')
      return crop_image(record['image']), label
    except MemoryError:
      raise
    # Readers and decoders raise whatever broken bytes make them raise.
    except Exception as error:
      return corrupt.CorruptRecord(name, ' '.join(str(error).split()) or type(error).__name__)


def _text(value: Any) -> str:
  return value.decode(errors='replace') if isinstance(value, bytes) else str(value)
