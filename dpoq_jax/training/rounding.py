"""Moves parameters by their last digit, to measure what rounding does to a trained network."""

from typing import Any

import jax
import jax.numpy as jnp


def nudge(params: Any, seed: int) -> Any:
  """Returns parameters of which each is the float next to what it was, above or below it.

  Another machine, or another compiler, adds in another order, and its sums differ as little. What
  training makes of that is how far an accuracy can be repeated.

  Args:
    params: pytree of floating-point arrays.
    seed: draws which are moved up and which down.
  """
  leaves, structure = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  return structure.unflatten(
    [
      jnp.nextafter(leaf, jnp.where(jax.random.bernoulli(key, shape=leaf.shape), jnp.inf, -jnp.inf))
      for leaf, key in zip(leaves, keys, strict=True)
    ]
  )
