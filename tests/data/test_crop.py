"""Tests of `dpoq_jax.data.crop`."""

import io
import pathlib
import subprocess
import sys

import hypothesis
from hypothesis import strategies
import numpy as np
from PIL import Image
import pytest

from dpoq_jax.data import crop
from tests.data import jpegs


@hypothesis.given(
  strategies.integers(1, 600), strategies.integers(1, 600), strategies.integers(0, 2**32)
)
def test_random_crops_lie_within_the_image(width, height, seed):
  box = crop.random_crop_box(width, height, np.random.default_rng(seed))
  left, upper, right, lower = box
  assert 0 <= left < right <= width
  assert 0 <= upper < lower <= height


def test_random_crops_have_the_areas_and_ratios_asked_for():
  rng = np.random.default_rng(0)
  boxes = np.array([crop.random_crop_box(500, 375, rng) for _ in range(4000)])
  width, height = (boxes[:, 2:] - boxes[:, :2]).T
  area, ratio = width * height / (500 * 375), width / height
  # Sides are whole pixels.
  assert area.min() > 0.078
  assert area.max() <= 1
  assert 0.74 < ratio.min() < 0.76
  assert 1.32 < ratio.max() < 1.35
  # Uniform but for large crops, of which tall ones do not fit.
  assert 0.2 < np.quantile(area, 0.25) < 0.32
  assert 0 < np.log(ratio).mean() < 0.06
  # They reach every side.
  assert boxes[:, :2].min() == 0
  assert boxes[:, 2].max() == 500
  assert boxes[:, 3].max() == 375


@pytest.mark.parametrize(
  ('width', 'height', 'expected'), [(900, 30, (430, 0, 470, 30)), (30, 900, (0, 430, 30, 470))]
)
def test_of_an_image_too_narrow_the_centre_is_taken(width, height, expected):
  # Every draw fails, since a crop of an allowed ratio has at most 5 % of the area.
  assert crop.random_crop_box(width, height, np.random.default_rng(0)) == expected


def test_evaluation_resizes_the_shorter_side_and_takes_the_centre():
  image = jpegs.picture(np.random.default_rng(0), 100, 75)
  encoded = jpegs.encode(image)
  found = crop.evaluation_crop(encoded, 32, 48)
  with Image.open(io.BytesIO(encoded)) as opened:
    # 48 / 75 of 100 is 64.
    resized = np.asarray(opened.resize((64, 48), Image.Resampling.BILINEAR))
  np.testing.assert_array_equal(found, resized[8:40, 16:48])


def test_training_crop_is_the_box_resized():
  image = jpegs.picture(np.random.default_rng(0), 90, 110)
  found = crop.training_crop(jpegs.encode(image, 'png'), 32, np.random.default_rng(5))
  box = crop.random_crop_box(90, 110, np.random.default_rng(5))
  expected = image.crop(box).resize((32, 32), Image.Resampling.BILINEAR)
  # At the border of the box, the filter sees what lies outside of it.
  difference = np.abs(np.asarray(expected).astype(int) - found)
  assert difference.mean() < 1
  np.testing.assert_array_equal(found[4:-4, 4:-4], np.asarray(expected)[4:-4, 4:-4])


def test_a_large_jpeg_is_decoded_smaller_with_nearly_the_same_result():
  image = jpegs.picture(np.random.default_rng(0), 800, 600)
  crops = [
    crop.training_crop(jpegs.encode(image, kind), 32, np.random.default_rng(1))
    for kind in ('jpeg', 'png')
  ]
  assert np.abs(crops[0].astype(int) - crops[1]).max() <= 4


@pytest.mark.parametrize('size', [(60_000, 1), (1, 60_000)])
def test_a_line_of_pixels_is_refused_in_evaluation(size):
  # Its shorter side resized to 256, it would have 4e9 pixels.
  line = jpegs.encode(Image.new('RGB', size), 'png')
  with pytest.raises(ValueError, match='too long to resize'):
    crop.evaluation_crop(line, 224, 256)
  cropped = crop.training_crop(line, 224, np.random.default_rng(0))
  assert cropped.shape == (224, 224, 3)


def test_worker_processes_import_neither_jax_nor_tfds():
  script = (
    'import sys; from dpoq_jax.data import corrupt_records, crop, decode; '
    'sys.exit("jax" in sys.modules or "tensorflow_datasets" in sys.modules)'
  )
  subprocess.run([sys.executable, '-c', script], check=True, cwd=pathlib.Path(__file__).parents[2])
