"""Trains ResNet-8 on scikit-learn's digits at 2, 4, 8 and 16 bits, in a minute: the embedded job.

    dpoq train --config=digits_resnet8 --workdir=DIR

The same as without --config; a file of its own for its variants. Not in the paper.

Expected top-1 (%) on 360 test images, of which one is 0.28, mean of five seeds ± deviation
(`onion, DoReFa (the paper), seeds` in results/cpu/NOISE.csv); roundings of one seed differ as much:

    weight bits             2             4             8            16
                 98.61 ± 0.59  99.28 ± 0.54  98.94 ± 0.41  99.22 ± 0.30

Cost: 660 steps of 64 images of 8x8, one to two minutes on two cores.
"""

from typing import Any

from dpoq_jax import config as config_lib
from dpoq_jax.config import variants


def get_config(variant: str = '') -> Any:
  """Returns the config of the run; `variants.apply` says what a variant may be."""
  return variants.apply(config_lib.get_config(), variant)
