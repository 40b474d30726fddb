"""Labels and exits in a browser are those of ONNX Runtime outside, on every image."""

import pathlib
from typing import Any

import numpy as np
import pytest

from dpoq_jax.data import in_memory
from dpoq_jax.deploy.onnx import graph_network
from tests import browser
from tests.conftest import once
from tests.deploy.onnx.conftest import images
from tests.deploy.web.conftest import Server, Site, in_page, read_site, write_site

# The modules of the page, on images that the server hands out one after another. Returns of each
# image the label of each precision alone, and at each point and cap its label and its exit.
CODE = """
  const { download } = await import('/download.js');
  const { Network, startRuntime } = await import('/network.js');
  const description = await (await fetch('/network.json')).json();
  for (const entry of [description.runtime, ...description.rings]) entry.file = `/${entry.file}`;
  const { content } = await download(description.runtime);
  const network = new Network(await startRuntime(content), description);
  for (const ring of description.rings) await network.add((await download(ring)).content);
  const pixels = new Uint8Array(await (await fetch('/pixels.bin')).arrayBuffer());
  const size = description.image_shape.reduce((a, b) => a * b);
  const last = description.bits.length - 1;
  const result = [];
  for (let start = 0; start < pixels.length; start += size) {
    const image = network.image(pixels.slice(start, start + size));
    const never = await network.answer(image, description.points.at(-1), last);
    const found = [...never.run.map(({ label }) => label)];
    for (const point of description.points) {
      for (const cap of description.bits.keys()) {
        const { label, index } = await network.answer(image, point, cap);
        found.push(label, description.bits[index]);
      }
    }
    result.push(found);
  }
  return result;
"""


def check(site: Site, pixels: np.ndarray) -> None:
  """Compares labels of every precision, and labels and exits of every point and cap."""
  server = Server(site.folder)
  server.changed['pixels.bin'] = pixels.tobytes()
  try:
    with browser.opened() as driver:
      driver.set_script_timeout(7200)
      driver.get(f'{server.address}/style.css')
      found = np.array(in_page(driver, CODE))
  finally:
    server.stop()
  network = graph_network.Network(site.exported)
  # By the same graphs: `predict_at` has one of its own, which rounds less often.
  wanted = [network.predict(pixels, point=alone(site), max_bits=b).labels for b in network.bits]
  for point in site.points:
    for cap in network.bits:
      result = network.predict(pixels, point=point, max_bits=cap)
      wanted += [result.labels, result.precisions]
  np.testing.assert_array_equal(found, np.stack(wanted, axis=1))
  # It would show little if all images were alike.
  assert len(np.unique(found[:, 0])) > 1
  exits = found[:, len(network.bits) + 1 :: 2]
  assert all(len(np.unique(exits[:, k])) == len(network.bits) for k in (5, 8))


def alone(site: Site) -> dict[str, Any]:
  """The point at which no image leaves early, and the last precision alone predicts."""
  last = site.points[-1]
  weights = {b: [0.0] * (len(each) - 1) + [1.0] for b, each in last['weights'].items()}
  return {**last, 'weights': weights}


def test_labels_are_those_of_the_runtime_outside(site: Site):
  check(site, images(96, (32, 32, 3), seed=2))


@pytest.fixture(scope='session')
def cifar_site(
  tmp_path_factory: pytest.TempPathFactory,
  runtime_folder: pathlib.Path,
  cifar10_data_dir: pathlib.Path,
) -> tuple[Site, np.ndarray]:
  """The page with ranges measured on CIFAR-10, and the test images of it."""
  test = np.asarray(in_memory.load('cifar10', 'test', str(cifar10_data_dir)).images)

  def make(path: pathlib.Path) -> None:
    train = in_memory.load('cifar10', 'train', str(cifar10_data_dir)).images
    write_site(path, np.asarray(train[:512]), test[:500], runtime_folder)

  return read_site(once(tmp_path_factory, 'web_page_of_cifar', make)), test


@pytest.mark.nightly
def test_labels_of_1000_cifar_images_are_those_of_the_runtime_outside(cifar_site):
  site, test = cifar_site
  check(site, test[:1000])


@pytest.mark.exhaustive
def test_labels_of_all_cifar_images_are_those_of_the_runtime_outside(cifar_site):
  check(*cifar_site)
