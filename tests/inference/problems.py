"""A made-up problem whose precisions are of different worth."""

import numpy as np

from dpoq_jax.inference.calibration import Examples

BITS = (2, 4, 8)


def examples(count: int, seed: int = 0, classes: int = 5) -> Examples:
  """Logits that know the label the better the more bits, with errors that they share."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, classes, count)
  right = np.eye(classes)[labels]
  hardness = rng.normal(0, 1.2, (count, classes))
  noise = rng.normal(0, 0.7, (len(BITS), count, classes))
  skill = np.array([2.2, 2.6, 3.2])[:, None, None]
  return Examples((skill * right + hardness + noise).astype(np.float32), labels, f'{count} made up')
