import jax.numpy as jnp
import pytest

from dpoq_jax.core import quantizers
from dpoq_jax.core.spec import LayerOptions, Merge, PathSpec


@pytest.mark.parametrize(('bits', 'clip'), [(1, 2.0), (2, 2.0), (3, 6.0), (8, 6.0), (16, 6.0)])
def test_few_levels_start_with_a_tighter_clip(bits: int, clip: float):
  assert PathSpec((2, 4), 0, bits).clip_init == clip
  assert PathSpec((2, 4), 0, bits, LayerOptions(clip_init=1.0)).clip_init == 1.0


@pytest.mark.parametrize(
  ('operands', 'parameters'),
  [(jnp.bfloat16, jnp.float32), (jnp.float32, jnp.float32), (jnp.float64, jnp.float64)],
)
def test_parameters_are_float32_at_least(operands, parameters):
  assert LayerOptions(compute_dtype=operands).parameter_dtype == parameters


def test_a_path_is_one_ring_of_its_network():
  paths = [PathSpec((2, 4, 8), index) for index in range(3)]
  assert [path.precision for path in paths] == [2, 4, 8]
  assert [path.ring_width for path in paths] == [2, 2, 4]
  companion = PathSpec((2, 4, 8), 2, companion_width=6)
  assert (companion.precision, companion.ring_width) == (8, 6)


def test_by_default_a_path_is_the_float_network_and_options_are_those_of_the_paper():
  path = PathSpec()
  assert (path.precision, path.ring_width, path.activation_bits) == (32, 32, 32)
  assert path.options == LayerOptions(
    weight_quantizer=quantizers.dorefa,
    merge=Merge.PSBN,
    clip_init=None,
    shift_init=0.0,
    momentum=0.9,
    epsilon=1e-5,
    compute_dtype=jnp.float32,
  )
