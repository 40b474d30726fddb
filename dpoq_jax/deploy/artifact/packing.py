"""Packs codes of a few bits each without gaps; needs no JAX."""

import numpy as np

# Codes that are packed at once, a multiple of 8: while they are, every bit takes a byte of memory.
_BLOCK = 2**20


def packed_size(count: int, width: int) -> int:
  """Returns the number of bytes that `count` codes of `width` bits take.

  >>> packed_size(3, width=3)
  2
  """
  return -(-count * width // 8)


def pack_codes(codes: np.ndarray, width: int) -> np.ndarray:
  """Concatenates the bits of codes, most significant first; zeros fill up the last byte.

  Args:
    codes: unsigned integers in [0, 2**width - 1], any shape, in C order.
    width: bits of a code, 1 to 16.

  Returns:
    uint8 [packed_size(codes.size, width)].

  Raises:
    ValueError: for a code of more than `width` bits.
  """
  flat = np.ascontiguousarray(codes).reshape(-1)
  if flat.size and int(flat.max()) >> width:
    raise ValueError(f'a code of {int(flat.max())} does not fit in {width} bits.')
  blocks = [
    # Big-endian: the bits of a code then follow one another from byte to byte.
    np.packbits(np.unpackbits(block.astype('>u2').view(np.uint8)).reshape(-1, 16)[:, 16 - width :])
    for block in (flat[start : start + _BLOCK] for start in range(0, flat.size, _BLOCK))
  ]
  return np.concatenate(blocks) if blocks else np.zeros(0, np.uint8)


def unpack_codes(packed: np.ndarray, width: int, count: int) -> np.ndarray:
  """Returns the codes that `pack_codes` packed.

  Args:
    packed: uint8 [packed_size(count, width)].
    width: bits of a code, 1 to 16.
    count: number of codes.

  Returns:
    uint16 [count].

  Raises:
    ValueError: for another number of bytes, or if the bits after the last code are not zero.
  """
  if packed.size != packed_size(count, width):
    raise ValueError(f'{packed.size} bytes do not hold {count} codes of {width} bits.')
  codes = np.empty(count, np.uint16)
  step = _BLOCK * width // 8
  for number, start in enumerate(range(0, packed.size, step)):
    bits = np.unpackbits(packed[start : start + step])
    first = number * _BLOCK
    wanted = min(_BLOCK, count - first)
    if bits[wanted * width :].any():
      raise ValueError('there are bits after the last code.')
    whole = np.zeros((wanted, 16), np.uint8)
    whole[:, 16 - width :] = bits[: wanted * width].reshape(wanted, width)
    codes[first : first + wanted] = np.packbits(whole).view('>u2')
  return codes
