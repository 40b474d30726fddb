"""Reads single records of a TFDS directory, or says what is wrong with them."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, NamedTuple, cast

import numpy as np

from dpoq_jax.data.corrupt_records import CorruptRecord
from dpoq_jax.runtime import terminal

# Features in which data sets keep the name of the file that a record was made of.
_FILE_NAMES = ('file_name', 'filename', 'image/filename')


class Example(NamedTuple):
  """Holds one decoded record.

  Attributes:
    image: uint8 [height, width, channels].
    label: number of its class.
  """

  image: np.ndarray
  label: int


@dataclasses.dataclass(frozen=True)
class Records:
  """Reads the records of one split of a TFDS directory.

  Their files are opened at the first read, so that an instance can be sent to worker processes.

  Attributes:
    path: version directory.
    split: name of the split.
  """

  path: str
  split: str

  @functools.cached_property
  def source(self) -> Any:
    """Returns the opened records: a sequence of dictionaries whose image is still encoded."""
    import tensorflow_datasets as tfds

    builder = cast(Any, tfds.builder_from_directory(self.path))
    return builder.as_data_source(self.split, decoders={'image': tfds.decode.SkipDecoding()})

  def load(self, index: int, crop_image: Callable[[bytes], np.ndarray]) -> Example | CorruptRecord:
    """Reads and decodes a record, or returns what is wrong with it.

    Args:
      index: number of the record in the split.
      crop_image: function that decodes and crops an encoded image.
    """
    name = f'{self.split} record {index}'
    try:
      record = self.source[index]
      name += ''.join(f' ({_text(record[key])})' for key in _FILE_NAMES if key in record)
      label, classes = int(record['label']), self.source.dataset_info.features['label'].num_classes
      if not 0 <= label < classes:
        raise ValueError(f'label {label} is none of {classes} classes')
      return Example(crop_image(record['image']), label)
    except MemoryError:
      raise
    # Broken bytes may make a reader or a decoder raise any exception.
    except Exception as error:
      return CorruptRecord(name, terminal.one_line(error) or type(error).__name__)


def _text(value: Any) -> str:
  text = value.decode(errors='replace') if isinstance(value, bytes) else value
  return terminal.one_line(text)
