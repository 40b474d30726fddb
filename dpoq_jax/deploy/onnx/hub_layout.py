"""Writes what other tools read beside the graphs in `onnx`: the layout of model hubs.

optimum and transformers.js find a graph by its name, `onnx/model.onnx` or that of a `dtype`, and
read from two files of JSON what its classes are and how images become its input.
"""

from collections.abc import Sequence
import json
import pathlib
from typing import Any

FOLDER = 'onnx'
"""Folder of the graphs for other tools."""

HIGHEST = 'model.onnx'
"""Name of the graph of the highest precision, which is read where no other is asked for."""

# These tools choose their code by the names of architectures that they know. All that this one's
# does is to run the graph.
_MODEL_TYPE, _ARCHITECTURE = 'resnet', 'ResNetForImageClassification'
# The one that resizes to a shape as well as by the shorter side, and makes any image RGB.
_IMAGE_PROCESSOR = 'CLIPImageProcessor'
_BILINEAR = 2


def file_name(precision: int) -> str:
  """Returns the name of the graph of a precision, of which transformers.js makes a `dtype`.

  >>> file_name(4)
  'model_q4.onnx'
  >>> file_name(8)
  'model_quantized.onnx'
  """
  # Its name for `q8`, which it reads in a browser where no `dtype` is given.
  return f'model_{"quantized" if precision == 8 else f"q{precision}"}.onnx'


def write(
  folder: pathlib.Path,
  image_shape: Sequence[int],
  class_names: Sequence[str],
  resize: int | None,
) -> None:
  """Writes `config.json` and `preprocessor_config.json`.

  Args:
    folder: the folder of the export.
    image_shape: (height, width, channels) of the images of the network.
    class_names: a name for each class.
    resize: shorter side to which files are resized before their centre is taken, pixels; None
      resizes them to `image_shape`.
  """
  height, width, _ = image_shape
  shape = {'height': height, 'width': width}
  _write(
    folder / 'config.json',
    {
      'architectures': [_ARCHITECTURE],
      'model_type': _MODEL_TYPE,
      'num_channels': 3,
      'id2label': {str(label): name for label, name in enumerate(class_names)},
      'label2id': {name: label for label, name in enumerate(class_names)},
    },
  )
  _write(
    folder / 'preprocessor_config.json',
    {
      'image_processor_type': _IMAGE_PROCESSOR,
      'do_convert_rgb': True,
      'do_resize': True,
      'size': {'shortest_edge': resize} if resize else shape,
      'resample': _BILINEAR,
      'do_center_crop': bool(resize),
      'crop_size': shape,
      'do_rescale': True,
      'rescale_factor': 1 / 255,
      'do_normalize': False,
    },
  )


def _write(file: pathlib.Path, content: dict[str, Any]) -> None:
  """Writes a file of JSON."""
  file.write_text(json.dumps(content, indent=1) + '\n')
