"""Modules of the page in a browser: exits, digests and pixels are those of the library."""

import hashlib
import math
import pathlib

import numpy as np
from PIL import Image
import pytest
from selenium import webdriver

from dpoq_jax.deploy.onnx import decision, image_files
from tests.deploy.web.conftest import Server, in_page


@pytest.fixture
def modules(driver: webdriver.Chrome, server: Server) -> webdriver.Chrome:
  """The browser where modules of the page can be imported, but the page itself does not run."""
  driver.get(f'{server.address}/style.css')
  return driver


def test_exits_are_decided_as_in_the_library(modules: webdriver.Chrome):
  rng = np.random.default_rng(1)
  logits: np.ndarray = rng.normal(0, 3, (7, 5)).astype(np.float32)
  logits[3, 2], logits[4, 0], logits[5] = np.nan, np.inf, 2.0
  code = """
    const { combined, label, leaves, probabilities } = await import('/exit_rule.js');
    const special = {nan: NaN, inf: Infinity};
    const rows = given[0].map((row) => Float32Array.from(row, (each) => special[each] ?? each));
    const run = rows.map((row, k) => probabilities(row, given[1][k]));
    const most = run.map((each) => Math.max(...each));
    return {
      run, combined: combined(run.slice(0, 3), given[2]), labels: run.map(label),
      at: run.map((each, k) => leaves(each, {thresholds: {4: most[k]}}, 4)),
      above: run.map((each, k) => leaves(each, {thresholds: {4: most[k] + 2 ** -39}}, 4)),
    };
  """
  temperatures, weights = rng.uniform(0.3, 3, 7).tolist(), [0.2, 0.0, 1.7]
  sent = [[each if math.isfinite(each) else str(each) for each in row] for row in logits.tolist()]
  found = in_page(modules, code, sent, temperatures, weights)
  wanted = [decision.probabilities(*each) for each in zip(logits, temperatures, strict=True)]
  np.testing.assert_allclose(found['run'], wanted, rtol=1e-13)
  np.testing.assert_array_equal(found['run'][3:6], np.full((3, 5), 0.2))
  np.testing.assert_allclose(found['combined'], decision.combined(wanted[:3], weights), rtol=1e-13)
  assert found['labels'] == np.argmax(wanted, axis=-1).tolist()
  # A threshold that falls on a confidence lets the image leave, one above it by the slack does not.
  assert found['at'] == [True] * 7
  assert found['above'] == [False] * 7


def test_a_ring_that_cannot_run_is_not_there(modules: webdriver.Chrome):
  """As where there is too little memory: the page goes on without, and may try again."""
  code = """
    const { Network } = await import('/network.js');
    let broken = false;
    const run = async () => {
      if (broken) throw new Error('no memory');
      return { logits: { data: [0, 0] } };
    };
    const ort = {
      Tensor: class {}, InferenceSession: { create: async () => ({ inputNames: [], run }) },
    };
    const network = new Network(ort, { bits: [2, 4], image_shape: [1, 1, 1] });
    const point = { temperatures: { 2: 1, 4: 1 }, thresholds: { 2: 2, 4: 0 },
      weights: { 2: [1], 4: [0, 1] } };
    const exits = [];
    for (const isBroken of [false, true, false]) {
      broken = isBroken;
      await network.add().catch(() => exits.push('refused'));
      broken = false;
      exits.push((await network.answer(network.image([0]), point, 1)).index);
    }
    return exits;
  """
  assert in_page(modules, code) == [0, 'refused', 0, 1]


def test_digests_are_those_of_sha256(modules: webdriver.Chrome):
  rng = np.random.default_rng(0)
  contents = [rng.bytes(n) for n in (0, 1, 55, 56, 63, 64, 65, 119, 120, 1000, 70_001)]
  code = (
    "const { plainSha256, sha256 } = await import('/sha256.js');"
    'const all = given[0].map((bytes) => Uint8Array.from(bytes));'
    'return [all.map((bytes) => [...plainSha256(bytes)]), await Promise.all(all.map(sha256))]'
  )
  plain, own = in_page(modules, code, [list(each) for each in contents])
  wanted = [hashlib.sha256(each) for each in contents]
  assert [bytes(each) for each in plain] == [each.digest() for each in wanted]
  assert own == [each.hexdigest() for each in wanted]


@pytest.mark.parametrize(
  ('size', 'shape', 'shorter'),
  [
    ((120, 152), (32, 32, 3), None),
    ((8, 8), (8, 8, 1), None),
    ((301, 40), (28, 28, 1), None),
    ((5, 9), (32, 32, 3), None),
    ((161, 97), (32, 32, 3), 37),
    ((40, 64), (32, 32, 1), 45),
  ],
)
def test_pixels_are_those_that_predict_reads(
  size: tuple[int, int], shape: tuple[int, int, int], shorter: int | None,
  modules: webdriver.Chrome, server: Server, tmp_path: pathlib.Path,
):  # fmt: skip
  picture = np.random.default_rng(3).integers(0, 256, (*size, 3), dtype=np.uint8)
  Image.fromarray(picture).save(tmp_path / 'picture.png')
  server.changed['picture.png'] = (tmp_path / 'picture.png').read_bytes()
  code = (
    "const { pixelsOf } = await import('/pixels.js');"
    "const blob = await (await fetch('/picture.png')).blob();"
    'return [...await pixelsOf(blob, given[0], given[1])]'
  )
  found = np.array(in_page(modules, code, list(shape), shorter), np.uint8).reshape(shape)
  (read,) = image_files.read([tmp_path / 'picture.png'], shape, shorter)
  if size[0] > 2 * size[1]:
    # Of a tall picture Pillow 13 resizes columns first, and so rounds rows last.
    assert np.abs(found.astype(int) - read.pixels[0]).max() == 1
    grey = Image.fromarray(picture).convert('L')
    for whole in ((shape[1], size[0]), (shape[1], shape[0])):
      grey = grey.resize(whole, Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found[..., 0], np.asarray(grey))
  else:
    np.testing.assert_array_equal(found, read.pixels[0])
