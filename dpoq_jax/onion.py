"""Packs, truncates and reads the integers: one per weight, every precision a truncation of it.

A bit list `bits = (b_1 < ... < b_K)` gives K precisions and K rings of `r_k = b_k - b_{k-1}` bits
(`b_0 = 0`). The rings of one weight, most significant first, are concatenated into one integer of
`b_K` bits; precision k is its `b_k` most significant bits. This is eq. 2 of *DPOQ: Dynamic
Precision Onion Quantization* (ACML 2021).

Every function is pure and elementwise, works on NumPy and JAX arrays (traced ones included) and
returns the kind it was given, so that training, export and a runtime without JAX share one
definition.
"""

from collections.abc import Sequence
import itertools
import operator
from typing import Any

import numpy as np

MAX_BITS = 32


def check_bits(bits: Sequence[int]) -> tuple[int, ...]:
  """Returns `bits` as a tuple of ints.

  >>> check_bits([2, 4, 8])
  (2, 4, 8)

  Raises:
    ValueError: unless `bits` are increasing integers in [1, 32].
  """
  try:
    # bool is an int to Python, but `bits=True` is always a slip.
    checked = tuple(operator.index(b) for b in bits if not isinstance(b, bool))
    valid = len(checked) == len(bits) > 0
  except TypeError:
    valid, checked = False, ()
  valid = valid and all(1 <= b <= MAX_BITS for b in checked)
  if not (valid and all(low < high for low, high in itertools.pairwise(checked))):
    raise ValueError(
      f'bits={bits!r}: a bit list is one or more increasing integers from 1 to {MAX_BITS}, '
      'such as (2, 4, 8, 16).'
    )
  return checked


def check_precision(precision: int, bits: Sequence[int]) -> int:
  """Returns the index of a precision in the bit list of a network.

  >>> check_precision(4, bits=(2, 4, 8))
  1

  Raises:
    ValueError: for a precision that the network does not have.
  """
  if precision not in bits:
    raise ValueError(f'precision {precision}: this network has {tuple(bits)}.')
  return tuple(bits).index(precision)


def ring_widths(bits: Sequence[int]) -> tuple[int, ...]:
  """Returns the bits that each precision adds to the one below.

  >>> ring_widths((2, 4, 8, 16))
  (2, 2, 4, 8)
  """
  bits = check_bits(bits)
  return tuple(high - low for low, high in zip((0, *bits[:-1]), bits, strict=True))


def activation_widths(activation_bits: int | Sequence[int], bits: Sequence[int]) -> tuple[int, ...]:
  """Returns the activation bits of every precision.

  >>> activation_widths(8, bits=(2, 4))
  (8, 8)

  Args:
    activation_bits: one number for all precisions, or one for each.
    bits: the bit list.

  Raises:
    ValueError: for several numbers that are not one for each precision.
  """
  if isinstance(activation_bits, int):
    return (activation_bits,) * len(bits)
  if len(activation_bits) != len(bits):
    raise ValueError(
      f'activation_bits={tuple(activation_bits)} needs one entry for each of bits={tuple(bits)}'
    )
  return tuple(activation_bits)


def bitops(bits: Sequence[int], activation_bits: int | Sequence[int]) -> tuple[int, ...]:
  """Returns the BitOPs of a multiply-accumulate at every precision: `r_j a_j`, summed up to it.

  >>> bitops((2, 4, 8), 8)
  (16, 32, 64)
  >>> bitops((2, 4, 8), (2, 4, 8))
  (4, 12, 44)

  Args:
    bits: the bit list.
    activation_bits: those of all precisions, or of each.
  """
  pairs = zip(ring_widths(bits), activation_widths(activation_bits, bits), strict=True)
  return tuple(itertools.accumulate(ring * width for ring, width in pairs))


def packed_dtype(bits: Sequence[int]) -> np.dtype:
  """Returns the unsigned dtype of packed integers: uint16 up to 16 bits, uint32 up to 32.

  >>> packed_dtype((2, 4))
  dtype('uint16')
  """
  return np.dtype(np.uint16 if check_bits(bits)[-1] <= 16 else np.uint32)


def pack(codes: Sequence[Any], bits: Sequence[int]) -> Any:
  """Concatenates the codes of all rings, most significant first, into one integer.

  >>> [bin(w) for w in pack([np.array([1, 3]), np.array([2, 0])], bits=(2, 4)).tolist()]
  ['0b110', '0b1100']

  Args:
    codes: one integer-valued array per ring, all of one shape; those of ring k in `[0, 2**r_k - 1]`
      (not checked, so that the function can be traced).
    bits: the bit list.

  Returns:
    The packed integers, uint16 (uint32 above 16 bits), of the shape of the codes.

  Raises:
    ValueError: for a bad bit list, or unless there is one array per ring.
  """
  widths = ring_widths(bits)
  if len(codes) != len(widths):
    raise ValueError(
      f'{len(codes)} arrays of codes given for bits={tuple(bits)}, which has {len(widths)} rings.'
    )
  dtype = packed_dtype(bits)
  packed = _array(codes[0]).astype(dtype)
  for code, width in zip(codes[1:], widths[1:], strict=True):
    packed = (packed << dtype.type(width)) | _array(code).astype(dtype)
  return packed


def truncate(packed: Any, bits: Sequence[int], to: int) -> Any:
  """Returns the `to` most significant bits of `b_K`-bit integers: the weights at precision `to`.

  >>> truncate(np.array([0b0110, 0b1100], np.uint16), bits=(2, 4), to=2).tolist()
  [1, 3]

  Args:
    packed: unsigned integers of `b_K` bits, any shape.
    bits: the bit list.
    to: bits to keep, from 1 to `b_K`.

  Returns:
    Integers in `[0, 2**to - 1]`, shape and dtype of `packed`.

  Raises:
    ValueError: for a bad bit list, or `to` outside it.
  """
  highest = check_bits(bits)[-1]
  if not 1 <= to <= highest:
    raise ValueError(
      f'to={to}: integers of bits={tuple(bits)} can be truncated to 1 to {highest} bits.'
    )
  packed = _array(packed)
  return packed >> packed.dtype.type(highest - to)


def ring(packed: Any, bits: Sequence[int], k: int) -> Any:
  """Returns the `r_k` bits that precision k adds (eq. 2).

  `ring(W, k) = truncate(W, b_k) - truncate(W, b_{k-1}) * 2**r_k`

  >>> ring(np.array([0b0110, 0b1100], np.uint16), bits=(2, 4), k=1).tolist()
  [2, 0]

  Args:
    packed: unsigned integers of `b_K` bits, any shape.
    bits: the bit list.
    k: index of the ring, from 0.

  Returns:
    Codes in `[0, 2**r_k - 1]`, shape and dtype of `packed`.

  Raises:
    ValueError: for a bad bit list, or `k` outside it.
  """
  widths = ring_widths(bits)
  if not 0 <= k < len(widths):
    raise ValueError(f'k={k}: bits={tuple(bits)} has rings 0 to {len(widths) - 1}.')
  truncated = truncate(packed, bits, bits[k])
  # The low r_k bits are what is left when the coarser weight, shifted back, is subtracted.
  return truncated & truncated.dtype.type(2 ** widths[k] - 1)


def odd_integer(code: Any, width: int) -> Any:
  """Returns `2c - (2**r - 1)`: the value of an r-bit code, up to the scale `1 / (2**r - 1)`.

  >>> odd_integer(np.arange(4), width=2).tolist()
  [-3.0, -1.0, 1.0, 3.0]

  Args:
    code: integer-valued codes in `[0, 2**width - 1]`, any shape.
    width: bits of the code, r.

  Returns:
    Odd integers in `[-(2**r - 1), 2**r - 1]` as float32: exact up to 24 bits, nearest float above.
  """
  return 2.0 * _array(code).astype(np.float32) - float(max_code(width))


def value(code: Any, width: int) -> Any:
  """Returns the weight of an r-bit code, `V_r(c) = 2c / (2**r - 1) - 1`, in [-1, 1]; float32.

  >>> value(np.array([0, 3]), width=2).tolist()
  [-1.0, 1.0]
  """
  return odd_integer(code, width) / float(max_code(width))


def max_code(width: int) -> int:
  """Returns the largest code of `width` bits, `2**width - 1`.

  Raises:
    ValueError: unless `width` is in [1, 32].
  """
  if not 1 <= width <= MAX_BITS:
    raise ValueError(f'width={width}: a code has 1 to {MAX_BITS} bits.')
  return 2**width - 1


def merge_factors(lower_bits: int, width: int) -> tuple[float, float]:
  """Returns the two factors `(s_l, s_r)` of the nesting identity.

  With `h = l + r`: `V_h(c_l * 2**r + c_r) = s_l V_l(c_l) + s_r V_r(c_r)`, where
  `s_l = 2**r (2**l - 1) / (2**h - 1)` and `s_r = (2**r - 1) / (2**h - 1)`.

  Args:
    lower_bits: l, bits of the coarser weight.
    width: r, bits of the ring added to it.
  """
  high = max_code(lower_bits + width)
  return 2**width * max_code(lower_bits) / high, max_code(width) / high


def _array(x: Any) -> Any:
  return x if hasattr(x, 'astype') else np.asarray(x)
