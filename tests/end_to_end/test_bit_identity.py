"""What cutting and adding rings promise, on a trained network and real images.

A few random images on a small untrained network do not show it: last bits that differ have to meet
a tie of PACT's rounding, which one image in a hundred does.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpoq_jax import Onion
from dpoq_jax.data.examples import ExampleSet
from dpoq_jax.data.in_memory import ImageSet
from dpoq_jax.deploy.artifact import in_jax, rings
from dpoq_jax.network.trainable import Variables
from dpoq_jax.runtime import processes
from dpoq_jax.training.evaluation import Evaluator

ROOT = pathlib.Path(__file__).resolve().parents[2]
ARTIFACT = ROOT / 'dpoq_jax/pretrained/cifar10_resnet8'


@pytest.fixture(scope='module')
def test_images(cifar10_binaries: pathlib.Path) -> np.ndarray:
  batch = np.fromfile(cifar10_binaries / 'cifar-10-batches-bin/test_batch.bin', np.uint8)
  return batch.reshape(10_000, 3073)[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def logits(network: Onion, variables: Variables, images: np.ndarray) -> np.ndarray:
  """Logits of all precisions, a program for each path, as evaluation and the cascade run them."""
  labels = np.zeros(len(images), np.int32)
  image_set: ExampleSet = ImageSet(images, labels, tuple('0123456789'))
  return Evaluator(network, processes.local_mesh())(variables, image_set, 250).logits


@pytest.mark.parametrize('count', [1000, pytest.param(10_000, marks=pytest.mark.nightly)])
def test_cut_networks_have_the_logits_of_the_whole(test_images: np.ndarray, count: int):
  images = test_images[:count]
  held = rings.load(ARTIFACT)
  network = in_jax.network_of(held)
  whole = logits(network, held.variables, images)
  for index, precision in enumerate(network.bits[:-1]):
    cut = logits(*network.cut(held.variables, precision), images)
    np.testing.assert_array_equal(cut, whole[: index + 1])
  low = rings.load(ARTIFACT, max_bits=4)
  np.testing.assert_array_equal(logits(in_jax.network_of(low), low.variables, images), whole[:2])


@pytest.mark.parametrize('count', [500, pytest.param(10_000, marks=pytest.mark.nightly)])
def test_a_ring_on_top_leaves_the_logits_below_as_they_were(test_images: np.ndarray, count: int):
  images = test_images[:count]
  held = rings.load(ARTIFACT, max_bits=4)
  network = in_jax.network_of(held)
  # What `init_from` starts with: the paths below as they are, a fresh one above.
  wider = Onion(network.model, (*network.bits, 8), network.activation_bits, network.options)
  fresh = wider.freeze(wider.init(jax.random.key(0), jnp.asarray(images[:1])))
  added = {**fresh, **{name: held.variables[name] for name in held.variables if 'psbn' in name}}
  added['params'] = {**fresh['params'], **held.variables['params']}
  added['onion'] = jax.tree.map(
    lambda low, new: (low.astype(new.dtype) << 4) | (new & 15),
    held.variables['onion'],
    fresh['onion'],
  )
  np.testing.assert_array_equal(
    logits(wider, added, images)[:2], logits(network, held.variables, images)
  )
