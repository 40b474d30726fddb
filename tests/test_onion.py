import fractions
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpoq_jax import onion

# Bit lists of at most 16 bits, shown on every integer they can hold: 65,536 of them, or 2**b_K.
BIT_LISTS = [(2, 4, 8, 16), (1, 2, 3, 16), (4, 5, 6, 7), (3, 16), (16,), (1,), (1, 2), (15, 16)]
WIDE_BIT_LISTS = [(2, 4, 8, 16, 32), (17, 20), (1, 32), (32,), (16, 17)]


def integers(bits: tuple[int, ...]) -> np.ndarray:
  """Every b_K-bit integer up to 16 bits; above, the ends and 10,000 drawn at random."""
  highest = bits[-1]
  if highest <= 16:
    return np.arange(2**highest).astype(np.uint16)
  drawn = np.random.default_rng(0).integers(0, 2**highest, 10_000, dtype=np.uint64)
  ends = np.array([0, 1, 2 ** (highest - 1), 2**highest - 2, 2**highest - 1], np.uint64)
  return np.concatenate([ends, drawn]).astype(np.uint32)


def exact_value(code: int, width: int) -> fractions.Fraction:
  """V_r(c) = 2c / (2**r - 1) - 1 without rounding."""
  return fractions.Fraction(2 * code, 2**width - 1) - 1


@pytest.mark.parametrize(
  ('bits', 'widths'),
  [
    ((2, 4, 8, 16), (2, 2, 4, 8)),
    ((1, 2, 3, 16), (1, 1, 1, 13)),
    ((4, 5, 6, 7), (4, 1, 1, 1)),
    ((3, 16), (3, 13)),
    ((16,), (16,)),
    ([1, 32], (1, 31)),
  ],
)
def test_ring_widths(bits, widths):
  assert onion.ring_widths(bits) == widths


def test_worked_example():
  # 0b10_01_1101_00101110 in rings of 2, 2, 4 and 8 bits.
  packed = np.array([0b1001110100101110], np.uint16)
  bits = (2, 4, 8, 16)
  rings = [onion.ring(packed, bits, k).item() for k in range(4)]
  assert rings == [0b10, 0b01, 0b1101, 0b00101110]
  truncated = [onion.truncate(packed, bits, to).item() for to in (*bits, 1, 3)]
  assert truncated == [0b10, 0b1001, 0b10011101, 0b1001110100101110, 0b1, 0b100]


@pytest.mark.parametrize('bits', BIT_LISTS + WIDE_BIT_LISTS)
def test_pack_and_ring_invert_each_other(bits: tuple[int, ...]):
  packed = integers(bits)
  rings = [onion.ring(packed, bits, k) for k in range(len(bits))]
  for codes, width in zip(rings, onion.ring_widths(bits), strict=True):
    # Every code of the ring occurs (up to 16 bits), and none outside it.
    assert (int(codes.min()), int(codes.max())) == (0, 2**width - 1)
  again = onion.pack(rings, bits)
  assert again.dtype == packed.dtype
  np.testing.assert_array_equal(again, packed)


@pytest.mark.parametrize('bits', BIT_LISTS + WIDE_BIT_LISTS)
def test_ring_is_equation_2_and_truncate_a_division(bits: tuple[int, ...]):
  packed = integers(bits)
  wide = packed.astype(np.int64)
  widths = onion.ring_widths(bits)
  for k, b in enumerate(bits):
    coarse = wide // 2 ** (bits[-1] - bits[k - 1]) if k else np.zeros_like(wide)
    fine = wide // 2 ** (bits[-1] - b)
    np.testing.assert_array_equal(onion.truncate(packed, bits, b), fine)
    np.testing.assert_array_equal(onion.ring(packed, bits, k), fine - coarse * 2 ** widths[k])
    # Truncation is the packing of the first rings alone.
    first = [onion.ring(packed, bits, j) for j in range(k + 1)]
    np.testing.assert_array_equal(onion.pack(first, bits[: k + 1]), fine)


@pytest.mark.parametrize('bits', BIT_LISTS)
def test_truncate_gives_any_number_of_bits(bits: tuple[int, ...]):
  packed = integers(bits)
  for to in range(1, bits[-1] + 1):
    truncated = onion.truncate(packed, bits, to)
    assert truncated.dtype == packed.dtype
    np.testing.assert_array_equal(truncated, packed.astype(np.int64) // 2 ** (bits[-1] - to))


@pytest.mark.parametrize('bits', BIT_LISTS + WIDE_BIT_LISTS)
def test_values_nest_exactly(bits: tuple[int, ...]):
  # The nesting identity times 2**h - 1 is one of odd integers n_r(c) = 2c - (2**r - 1), where
  # V_r(c) = n_r(c) / (2**r - 1): n_h(W) = 2**r n_l(c_l) + n_r(c_r). int64 holds it exactly.
  packed = integers(bits)
  for k in range(1, len(bits)):
    low, width, high = bits[k - 1], onion.ring_widths(bits)[k], bits[k]
    whole = 2 * onion.truncate(packed, bits, high).astype(np.int64) - (2**high - 1)
    lower = 2 * onion.truncate(packed, bits, low).astype(np.int64) - (2**low - 1)
    own = 2 * onion.ring(packed, bits, k).astype(np.int64) - (2**width - 1)
    np.testing.assert_array_equal(whole, 2**width * lower + own)


@pytest.mark.parametrize('bits', BIT_LISTS)
def test_value_nests_with_merge_factors(bits: tuple[int, ...]):
  packed = integers(bits)
  for k in range(1, len(bits)):
    width = onion.ring_widths(bits)[k]
    factors = onion.merge_factors(bits[k - 1], width)
    parts = (
      onion.value(onion.truncate(packed, bits, bits[k - 1]), bits[k - 1]),
      onion.value(onion.ring(packed, bits, k), width),
    )
    whole = onion.value(onion.truncate(packed, bits, bits[k]), bits[k])
    # Terms of at most 1 in float32, 2**-23 apart: a few roundings.
    np.testing.assert_allclose(
      factors[0] * parts[0] + factors[1] * parts[1], whole, rtol=0, atol=4e-7
    )


@pytest.mark.parametrize(('low', 'width'), [(1, 1), (2, 2), (4, 4), (8, 8), (3, 13), (31, 1)])
def test_merge_factors_are_those_of_the_identity(low: int, width: int):
  high = low + width
  lower = fractions.Fraction(2**width * (2**low - 1), 2**high - 1)
  own = fractions.Fraction(2**width - 1, 2**high - 1)
  assert lower + own == 1
  assert onion.merge_factors(low, width) == (float(lower), float(own))


@pytest.mark.parametrize(('low', 'width'), [(1, 1), (2, 2), (4, 4), (3, 5), (1, 7), (8, 8)])
def test_a_coarse_level_is_the_midpoint_of_its_children(low: int, width: int):
  high = low + width
  packed = integers((low, high))
  coarse = onion.truncate(packed, (low, high), low)
  # In units of 1 / (2**h - 1) levels are odd integers; one coarse step is 2**r fine ones.
  levels = onion.odd_integer(packed, high).astype(np.int64)
  coarse_levels = 2**width * onion.odd_integer(np.arange(2**low), low).astype(np.int64)
  for code, level in enumerate(coarse_levels):
    children = levels[coarse == code]
    assert len(children) == 2**width
    assert children.sum() == 2**width * level
    assert children.min() + children.max() == 2 * level


@pytest.mark.parametrize('width', [1, 2, 3, 4, 8, 16])
def test_values_are_symmetric_and_have_no_zero(width: int):
  codes = np.arange(2**width).astype(np.uint16)
  values = onion.value(codes, width)
  odd = onion.odd_integer(codes, width)
  assert values.dtype == odd.dtype == np.float32
  np.testing.assert_array_equal(odd, 2 * codes.astype(np.int64) - (2**width - 1))
  assert (values[0], values[-1]) == (-1, 1)
  np.testing.assert_array_equal(values, -values[::-1])
  assert np.all(values != 0)
  sample = codes[:: max(1, len(codes) // 64)]
  expected = [float(exact_value(int(code), width)) for code in sample]
  np.testing.assert_allclose(onion.value(sample, width), expected, rtol=2e-7)


def test_value_at_32_bits():
  codes = np.array([0, 2**31, 2**32 - 1], np.uint32)
  np.testing.assert_allclose(onion.value(codes, 32), [-1, 0, 1], atol=1e-7)


@pytest.mark.parametrize('highest', range(1, 33))
def test_packed_dtype_is_the_smallest_of_two(highest: int):
  expected = np.uint16 if highest <= 16 else np.uint32
  assert onion.packed_dtype((highest,)) == expected
  for code in (np.uint8(1), np.float32(1), np.int32(1), 1):
    assert onion.pack([code], (highest,)).dtype == expected


def test_codes_may_be_floats_of_any_shape():
  # Quantizers give integer-valued floats.
  codes = [np.full((2, 3), 3.0, np.float32), np.full((2, 3), 12.0, np.float32)]
  packed = onion.pack(codes, (2, 6))
  chex.assert_shape(packed, (2, 3))
  np.testing.assert_array_equal(packed, np.full((2, 3), 0b111100))


@pytest.mark.parametrize('bits', BIT_LISTS + WIDE_BIT_LISTS)
def test_numpy_and_jitted_jax_agree(bits: tuple[int, ...]):
  packed = integers(bits)

  @jax.jit
  def on_device(packed):
    rings = [onion.ring(packed, bits, k) for k in range(len(bits))]
    coarse = [onion.truncate(packed, bits, b) for b in bits]
    values = [onion.value(c, r) for c, r in zip(rings, onion.ring_widths(bits), strict=True)]
    return rings, coarse, values, onion.pack(rings, bits)

  rings, coarse, values, again = on_device(jnp.asarray(packed))
  assert isinstance(onion.ring(packed, bits, 0), np.ndarray)
  for k, b in enumerate(bits):
    for got, expected in (
      (rings[k], onion.ring(packed, bits, k)),
      (coarse[k], onion.truncate(packed, bits, b)),
    ):
      assert got.dtype == expected.dtype == packed.dtype
      np.testing.assert_array_equal(got, expected)
    expected = onion.value(onion.ring(packed, bits, k), onion.ring_widths(bits)[k])
    assert values[k].dtype == expected.dtype
    # XLA multiplies by a reciprocal where NumPy divides: one unit in the last place.
    np.testing.assert_allclose(values[k], expected, rtol=2e-7, atol=1e-7)
  assert again.dtype == packed.dtype
  np.testing.assert_array_equal(again, packed)


def test_vmap_gives_what_arrays_give():
  bits = (2, 4, 8, 16)
  packed = jnp.asarray(integers(bits)).reshape(256, 256)
  for k in range(4):
    mapped = jax.vmap(functools.partial(onion.ring, bits=bits, k=k))(packed)
    chex.assert_trees_all_equal(mapped, onion.ring(packed, bits, k))


@pytest.mark.parametrize(
  'bits',
  [(), (4, 2), (2, 2), (0, 2), (-1,), (33,), (2, 4, 40), (2.0, 4), ('2',), (True, 2), 8, None],
)
def test_bad_bit_lists_are_refused_and_named(bits):
  calls = (
    onion.check_bits,
    onion.ring_widths,
    onion.packed_dtype,
    lambda b: onion.pack([np.zeros(1, np.uint16)], b),
    lambda b: onion.truncate(np.zeros(1, np.uint16), b, 1),
    lambda b: onion.ring(np.zeros(1, np.uint16), b, 0),
  )
  for call in calls:
    with pytest.raises(ValueError, match=re.escape(f'bits={bits!r}')):
      call(bits)


@pytest.mark.parametrize('bits', [[2, 4], np.array([2, 4]), (np.int64(2), np.int32(4))])
def test_bit_lists_may_be_any_sequence_of_integers(bits):
  checked = onion.check_bits(bits)
  assert checked == (2, 4)
  assert all(type(b) is int for b in checked)


def test_other_bad_input_is_refused_and_named():
  packed = np.zeros(1, np.uint16)
  for to in (0, -1, 9):
    with pytest.raises(ValueError, match=rf'to={to}: .*\(2, 8\) can be truncated to 1 to 8 bits'):
      onion.truncate(packed, (2, 8), to)
  for k in (-1, 2):
    with pytest.raises(ValueError, match=rf'k={k}: .*\(2, 8\) has rings 0 to 1'):
      onion.ring(packed, (2, 8), k)
  with pytest.raises(ValueError, match=r'1 arrays .*\(2, 8\), which has 2 rings'):
    onion.pack([packed], (2, 8))
  for width in (0, 33):
    for call in (onion.value, onion.odd_integer):
      with pytest.raises(ValueError, match=f'width={width}:'):
        call(packed, width)


def test_a_precision_is_found_by_its_bits_and_others_are_refused():
  assert [onion.check_precision(b, (2, 4, 8)) for b in (2, 4, 8)] == [0, 1, 2]
  with pytest.raises(ValueError, match=r'precision 3: this network has \(2, 4, 8\)'):
    onion.check_precision(3, (2, 4, 8))


def test_activation_widths_are_one_for_all_or_one_each():
  assert onion.activation_widths(8, (2, 4)) == (8, 8)
  assert onion.activation_widths([4, 8], (2, 4)) == (4, 8)
  with pytest.raises(ValueError, match=r'activation_bits=\(4,\) .* each of bits=\(2, 4\)'):
    onion.activation_widths((4,), (2, 4))


def test_bitops_are_ring_bits_times_activation_bits_summed_up_to_a_precision():
  # With 8-bit activations everywhere, relative BitOPs are relative bits.
  assert onion.bitops((2, 4, 8), 8) == (2 * 8, 4 * 8, 8 * 8)
  # Otherwise each path runs its own ring on its own activations.
  assert onion.bitops((2, 4, 8), (2, 4, 8)) == (2 * 2, 2 * 2 + 2 * 4, 2 * 2 + 2 * 4 + 4 * 8)
