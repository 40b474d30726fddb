"""ResNet-8 on scikit-learn's digits at 2, 4, 8 and 16 bits: the embedded job, in a minute.

    python -m dpoq_jax.train --config=configs/digits_resnet8.py --workdir=DIR

The same as without --config; a file of its own for its variants. Not in the paper.
"""

from typing import Any

from dpoq_jax import config as config_lib


def get_config(variant: str = '') -> Any:
  """The run; for `variant` see `dpoq_jax.config.apply_variant`."""
  return config_lib.apply_variant(config_lib.get_config(), variant)
