import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpoq_jax import onion
from dpoq_jax.network import onion_network, truncation
from tests.network.test_shared_kernels import IMAGES, individual, with_statistics


@functools.lru_cache
def individual_frozen() -> tuple[onion_network.Onion, Any]:
  network = individual(8)
  return network, network.freeze(with_statistics(network))


def test_truncation_keeps_the_high_bits_and_everything_else():
  network, frozen = individual_frozen()
  cut, variables = truncation.truncated(network, frozen, to=2)
  assert cut.bits == (2,)
  for before, after in zip(
    jax.tree.leaves(frozen['onion']), jax.tree.leaves(variables['onion']), strict=True
  ):
    np.testing.assert_array_equal(np.asarray(before) // 64, after)
  np.testing.assert_array_equal(
    frozen['psbn_8']['stem']['norm']['var'], variables['psbn_2']['stem']['norm']['var']
  )
  same, unchanged = truncation.truncated(network, frozen, to=8)
  np.testing.assert_array_equal(same.apply(unchanged, IMAGES), network.apply(frozen, IMAGES))
  assert not np.array_equal(cut.apply(variables, IMAGES), network.apply(frozen, IMAGES))
  # One precision has no logits below that it could add.
  summed = dataclasses.replace(network, sum_logits=True)
  again, cut_again = truncation.truncated(summed, frozen, to=2)
  np.testing.assert_array_equal(again.apply(cut_again, IMAGES), cut.apply(variables, IMAGES))
  with pytest.raises(ValueError, match='truncated to 1 to 8'):
    truncation.truncated(network, frozen, to=9)
  for bits in ((32,), (4, 8)):
    other = dataclasses.replace(network, bits=bits)
    with pytest.raises(ValueError, match='one precision of integers'):
      truncation.truncated(other, frozen, to=2)


def test_renewed_statistics_are_means_over_the_batches():
  network, frozen = individual_frozen()
  cut, variables = truncation.truncated(network, frozen, to=2)
  batches = [IMAGES[:4], IMAGES[4:]]
  renewed = truncation.reestimated(cut, variables, batches)
  # The stem, by hand: values of pixels and weights, convolved, their moments per channel.
  kernel = onion.value(variables['onion']['stem']['conv']['kernel'], 2)
  moments = []
  for images in batches:
    pixels = (images.astype(jnp.float32) - 128) / 128
    y = jax.lax.conv_general_dilated(
      pixels, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    moments.append((y.mean((0, 1, 2)), y.var((0, 1, 2))))
  stem = renewed['psbn_2']['stem']['norm']
  np.testing.assert_allclose(stem['mean'], (moments[0][0] + moments[1][0]) / 2, rtol=1e-4)
  np.testing.assert_allclose(stem['var'], (moments[0][1] + moments[1][1]) / 2, rtol=1e-4)
  assert renewed['params'] is variables['params']
  with pytest.raises(ValueError, match='no batches'):
    truncation.reestimated(cut, variables, [])
