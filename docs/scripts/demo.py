"""Makes what `docs/demo.md` shows: the ResNet-20 that comes with the library, in a browser.

    python docs/scripts/demo.py [--runtime=DIR]

It goes to build/demo/; a site that is built afterwards shows it. It is what `dpoq export` writes
with --format=web, beside the first test images of CIFAR-10 (A. Krizhevsky, Learning Multiple Layers
of Features from Tiny Images, 2009), in the order of `data.in_memory`.
"""

import argparse
import json
import os
import pathlib
import shutil
import tempfile

import numpy as np
from PIL import Image

from dpoq_jax import classifier, pretrained
from dpoq_jax.cli.errors import user_errors
from dpoq_jax.deploy.artifact import manifest as manifest_lib
from dpoq_jax.deploy.onnx import export, source
from dpoq_jax.deploy.web import folder, runtime
from dpoq_jax.reporting import choices

NAME = 'cifar10_resnet20'
# Names another folder.
FOLDER = 'DEMO'

_ROOT = pathlib.Path(__file__).parents[2]
# One above the other, so that they are one file.
_IMAGES = pathlib.Path(__file__).with_name('demo_images.png')
_LABELS = (7, 0, 6, 9, 5, 1, 7, 0, 3, 2, 7, 2, 7, 9, 6, 8, 8, 8, 7, 9, 4, 2, 3, 5)


def where() -> pathlib.Path:
  """Returns the folder of the page."""
  return pathlib.Path(os.environ.get(FOLDER, _ROOT / 'build' / 'demo'))


def write(output: pathlib.Path, brought: runtime.Runtime) -> None:
  """Writes the page anew.

  Args:
    output: the folder; what is in it is removed.
    brought: what runs networks in a browser.
  """
  held = pretrained.folder(NAME)
  manifest, opened = manifest_lib.read(held), classifier.load(held)
  assert manifest.ranges
  assert opened.operating_point
  prepared = source.prepare_measured(
    opened.network, opened.variables, opened.image_shape, manifest.ranges
  )
  points, current = choices.choices_by_key(opened.operating_point)
  images = np.split(np.asarray(Image.open(_IMAGES)), len(_LABELS))
  shutil.rmtree(output, ignore_errors=True)
  with tempfile.TemporaryDirectory() as temporary:
    graphs = pathlib.Path(temporary) / 'graphs'
    export.write(graphs, prepared, class_names=opened.class_names)
    folder.write(
      output,
      graphs,
      brought,
      title=f'{manifest.model.label} on CIFAR-10',
      points=[json.loads(point.to_json()) for point in points],
      current=current,
      examples=folder.Examples(
        images, np.array(_LABELS), 'The first test images of CIFAR-10 (A. Krizhevsky, 2009).'
      ),
    )


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
  parser.add_argument('--runtime', type=pathlib.Path, help='folder with onnxruntime-web, unpacked')
  arguments = parser.parse_args()
  with user_errors():
    write(where(), runtime.read(arguments.runtime) if arguments.runtime else runtime.from_npm())
  print(f'written to {where()}')
