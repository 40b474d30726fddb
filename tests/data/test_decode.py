"""Tests of `dpoq_jax.data.decode`, by way of the crops that are made with it."""

import numpy as np
from PIL import Image
import pytest

from dpoq_jax.data import crop
from tests.data import jpegs


@pytest.mark.parametrize('mode', ['L', 'CMYK', 'RGBA', 'P', '1', 'LA', 'I;16'])
def test_every_kind_of_image_becomes_rgb(mode):
  colour = jpegs.picture(np.random.default_rng(0), 60, 50)
  if mode == 'I;16':
    image = Image.fromarray(np.asarray(colour.convert('L')).astype(np.uint16) * 257)
  else:
    image = colour.convert(mode)
  kind = 'jpeg' if mode == 'CMYK' else 'png'
  for cropped in (
    crop.evaluation_crop(jpegs.encode(image, kind), 32, 40),
    crop.training_crop(jpegs.encode(image, kind), 32, np.random.default_rng(0)),
  ):
    assert cropped.shape == (32, 32, 3)
    assert cropped.dtype == np.uint8
  if mode in ('L', 'I;16'):
    grey = crop.evaluation_crop(jpegs.encode(colour.convert('L'), 'png'), 32, 40)
    np.testing.assert_array_equal(crop.evaluation_crop(jpegs.encode(image, kind), 32, 40), grey)


@pytest.mark.parametrize('damage', ['truncated', 'no image'])
def test_broken_images_raise(damage):
  encoded = jpegs.encode(jpegs.picture(np.random.default_rng(0), 60, 50))
  broken = encoded[: len(encoded) // 2] if damage == 'truncated' else b'no image'
  with pytest.raises(OSError, match=r'(?i)truncated|cannot identify'):
    crop.evaluation_crop(broken, 32, 40)
