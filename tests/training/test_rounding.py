"""What moving parameters by their last digit does, and does not."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from dpoq_jax.training import rounding


def test_every_value_becomes_a_neighbour():
  params = {
    'a': jax.random.normal(jax.random.key(0), (64, 32)),
    'b': {'scale': jnp.ones(1000), 'bias': jnp.full(10, -0.3)},
  }
  moved = jax.jit(rounding.nudge, static_argnums=1)(params, 3)
  chex.assert_trees_all_equal_shapes_and_dtypes(params, moved)
  for before, after in zip(jax.tree.leaves(params), jax.tree.leaves(moved), strict=True):
    before, after = np.asarray(before), np.asarray(after)
    above, below = np.nextafter(before, np.inf), np.nextafter(before, -np.inf)
    assert ((after == above) | (after == below)).all()
  # Up and down alike, and another seed draws others.
  up = np.asarray(moved['a'] > params['a']).mean()
  assert 0.45 < up < 0.55
  other = rounding.nudge(params, 4)
  assert 0.45 < np.asarray(other['a'] == moved['a']).mean() < 0.55
