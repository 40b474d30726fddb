from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
import pytest

from dpoq_jax.deploy.artifact import packing


@given(st.data(), st.integers(1, 16))
def test_codes_come_back_and_take_no_more_than_their_bits(data, width):
  shape = data.draw(hnp.array_shapes(max_dims=3, min_side=0, max_side=20))
  codes = data.draw(hnp.arrays(np.uint16, shape, elements=st.integers(0, 2**width - 1)))
  packed = packing.pack_codes(codes, width)
  assert packed.dtype == np.uint8
  assert packed.size == packing.packed_size(codes.size, width) == -(-codes.size * width // 8)
  np.testing.assert_array_equal(
    packing.unpack_codes(packed, width, codes.size), codes.reshape(-1), strict=True
  )


def test_bits_are_concatenated_most_significant_first():
  # 5, 2, 7 in three bits: 101 010 111, filled up to 10101011 10000000.
  np.testing.assert_array_equal(
    packing.pack_codes(np.array([5, 2, 7]), 3), [0b10101011, 0b10000000]
  )


def test_blocks_are_seamless(monkeypatch):
  codes = np.random.default_rng(0).integers(0, 8, 1000)
  whole = packing.pack_codes(codes, 3)
  monkeypatch.setattr(packing, '_BLOCK', 64)
  np.testing.assert_array_equal(packing.pack_codes(codes, 3), whole)
  np.testing.assert_array_equal(packing.unpack_codes(whole, 3, 1000), codes)


def test_what_was_not_packed_is_refused():
  with pytest.raises(ValueError, match='a code of 8 does not fit in 3 bits'):
    packing.pack_codes(np.array([8]), 3)
  with pytest.raises(ValueError, match='2 bytes do not hold 3 codes of 2 bits'):
    packing.unpack_codes(np.zeros(2, np.uint8), 2, 3)
  with pytest.raises(ValueError, match='after the last code'):
    packing.unpack_codes(np.array([1], np.uint8), 2, 3)
