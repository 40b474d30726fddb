"""Measures how many JPEGs a second are decoded, cropped and batched, per core.

    python -m benchmarks.input_pipeline [--json=FILE] [--images=N] [--rounds=N] [--workers=0,1,2]

Writes a TFDS directory of images like ImageNet's (500 x 375, about 110 KB) and reads it as training
and evaluation do, in threads (0) and worker processes. They are compared with pillow alone, which
decodes the same bytes from memory to RGB in one process. As many cores count as there are workers
(or threads), but no more than the machine has. All systems take turns, round after round; figures
are medians. Starting the workers is not timed.
"""

from collections.abc import Callable, Iterator
import contextlib
import io
import json
import os
import pathlib
import platform
import statistics
import tempfile
import time
from typing import Any

from absl import flags, logging
import numpy as np
from PIL import Image
import rich.table
import tensorflow_datasets as tfds

from benchmarks import command
from dpoq_jax.data import corrupt_records, examples, streamed
from dpoq_jax.data.order import Order

_JSON = flags.DEFINE_string('json', None, 'file for the figures')
_ROUNDS = flags.DEFINE_integer('rounds', 3, 'rounds that are measured')
_IMAGES = flags.DEFINE_integer('images', 512, 'of the data set, each read once a round')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 32, 'images per batch')
_WORKERS = flags.DEFINE_list('workers', ['0', '1', '2'], 'worker processes')

SIZE = (500, 375)
OPTIONS = streamed.Options(image_size=224, resize=256)
# Batches that are not timed, until all workers have started.
WARM_UP = 4


class Photographs(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # pyright: ignore[reportGeneralTypeIssues, reportCallIssue]
  """Builds a data set of images whose files are as large as photographs: blur with grain."""

  name = 'photographs'
  VERSION = tfds.core.Version('1.0.0')
  pkg_dir_path = pathlib.Path()  # pyright: ignore[reportAssignmentType]

  def _info(self) -> Any:
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(encoding_format='jpeg'),
          'label': tfds.features.ClassLabel(num_classes=10),
        }
      )
    )

  def _split_generators(self, dl_manager: Any) -> Any:
    del dl_manager
    return {'train': self._generate_examples()}

  def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
    rng = np.random.default_rng(0)
    for number in range(_IMAGES.value):
      yield number, {'image': photograph(rng), 'label': number % 10}


def photograph(rng: np.random.Generator) -> bytes:
  """Returns an image as a JPEG of quality 90."""
  width, height = SIZE
  coarse = rng.integers(0, 256, (height // 16, width // 16, 3), np.uint8)
  smooth = Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC)
  grain = rng.normal(0, 15, (height, width, 1))
  pixels = np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)
  encoded = io.BytesIO()
  Image.fromarray(pixels).save(encoded, 'jpeg', quality=90)
  return encoded.getvalue()


def floor(encoded: list[bytes]) -> float:
  """Measures the images per second of pillow alone."""
  started = time.perf_counter()
  for each in encoded:
    with Image.open(io.BytesIO(each)) as image:
      image.convert('RGB')
  return len(encoded) / (time.perf_counter() - started)


def speed(batches: examples.Batches, steps: int) -> float:
  """Measures the images per second after the first batches."""
  with contextlib.closing(batches):
    for _ in range(WARM_UP):
      next(batches)
    started = time.perf_counter()
    for _ in range(steps):
      next(batches)
    return steps * _BATCH_SIZE.value / (time.perf_counter() - started)


def systems(data_dir: str) -> dict[str, tuple[int, Callable[[], float]]]:
  """Returns, for each system, its cores and the function that measures its images per second."""
  available = len(os.sched_getaffinity(0))
  steps = _IMAGES.value // _BATCH_SIZE.value
  measured: dict[str, tuple[int, Callable[[], float]]] = {}
  for workers in map(int, _WORKERS.value):
    options = streamed.Options(OPTIONS.image_size, OPTIONS.resize, workers)
    data = streamed.load('photographs', 'train', data_dir, options, corrupt_records.Tally(0))
    where = f'{workers} worker{"s" * (workers > 1)}' if workers else 'threads'
    cores = min(workers or available, available)
    # Three epochs, so that no worker is done before the measurement is.
    order = Order(len(data), _BATCH_SIZE.value, 0, 3)
    many = data.take(np.tile(np.arange(len(data)), 3))
    measured[f'training, {where}'] = (
      cores,
      lambda data=data, order=order: speed(data.training_batches(order), steps),
    )
    measured[f'evaluation, {where}'] = (
      cores,
      lambda many=many: speed(many.evaluation_batches(_BATCH_SIZE.value), steps),
    )
  return measured


def report(speeds: dict[str, list[float]], cores: dict[str, int], size: float) -> dict[str, Any]:
  """Returns the figures, as written by `--json`."""
  bare = statistics.median(speeds['pillow alone'])
  measured: dict[str, dict[str, float]] = {}
  for name, found in speeds.items():
    per_core = statistics.median(found) / cores[name]
    measured[name] = {
      'images_per_second': statistics.median(found),
      'cores': cores[name],
      'images_per_second_per_core': per_core,
      'of_pillow_alone': per_core / bare,
    }
  return {
    'systems': measured,
    'image_size': SIZE,
    'mean_bytes': size,
    'images': _IMAGES.value,
    'batch_size': _BATCH_SIZE.value,
    'rounds': _ROUNDS.value,
    'processor': platform.machine(),
  }


def main(argv: list[str]) -> None:
  """Measures, prints the table, writes the figures."""
  del argv
  logging.set_verbosity(logging.ERROR)
  # Three epochs have to hold the batches that are not timed, and one that is.
  if _BATCH_SIZE.value < 1 or _IMAGES.value < 2 * _BATCH_SIZE.value:
    raise ValueError(
      f'--images={_IMAGES.value} --batch-size={_BATCH_SIZE.value}: give two batches at least.'
    )
  with tempfile.TemporaryDirectory() as data_dir:
    with contextlib.redirect_stdout(io.StringIO()):
      Photographs(data_dir=data_dir, file_format='array_record').download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
      )
    source = streamed.load(
      'photographs', 'train', data_dir, OPTIONS, corrupt_records.Tally(0)
    ).records
    encoded = [record['image'] for record in source.source]
    measured = systems(data_dir)
    speeds: dict[str, list[float]] = {name: [] for name in ('pillow alone', *measured)}
    for _ in range(_ROUNDS.value):
      speeds['pillow alone'].append(floor(encoded))
      for name, (_, run) in measured.items():
        speeds[name].append(run())
  cores = {'pillow alone': 1} | {name: count for name, (count, _) in measured.items()}
  figures = report(speeds, cores, statistics.mean(map(len, encoded)))
  table = rich.table.Table(title=f'{SIZE[0]} x {SIZE[1]}, {figures["mean_bytes"] / 1e3:.0f} KB')
  for column in ('', 'images/s', 'cores', 'images/s per core', 'of pillow alone'):
    table.add_column(column, justify='right')
  for name, speed_of in figures['systems'].items():
    table.add_row(
      name,
      f'{speed_of["images_per_second"]:.0f}',
      str(speed_of['cores']),
      f'{speed_of["images_per_second_per_core"]:.0f}',
      f'{speed_of["of_pillow_alone"]:.2f}',
    )
  command.console().print(table)
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(figures, indent=2) + '\n')


if __name__ == '__main__':
  command.start(main)
