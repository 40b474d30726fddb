"""Damaged `.npy` files, as `predict` reads them."""

import io
import pathlib
import warnings

import numpy as np

from dpoq_jax.data import to_predict
from tests.fuzz import mutations

SHAPE = (4, 4, 1)
_TEXTS = (
  '-1',
  '2**9',
  '10' * 30,
  '()',
  '(',
  "'",
  '|O',
  '|V9',
  '>f8',
  'True',
  '{',
  '\0',
  '#',
  'u1u1',
)


def mutated_header(rng: np.random.Generator, whole: bytes) -> bytes:
  """Returns the file with a few characters of its header replaced by others that fit in Python."""
  end = 10 + int.from_bytes(whole[8:10], 'little')
  header = whole[10:end].decode('latin1').rstrip()
  for _ in range(int(rng.integers(1, 4))):
    start = int(rng.integers(len(header)))
    text = _TEXTS[rng.integers(len(_TEXTS))] * int(rng.choice([1, 1, 1, 2000]))
    header = header[:start] + text + header[start + int(rng.integers(4)) :]
  encoded = header.encode('latin1')
  return whole[:8] + min(len(encoded), 65535).to_bytes(2, 'little') + encoded + whole[end:]


@mutations.counts
def test_damaged_arrays_are_read_whole_or_refused_in_one_line(count: int, tmp_path: pathlib.Path):
  rng = np.random.default_rng(9)
  originals = []
  for array in (
    np.arange(80, dtype=np.uint8).reshape(5, *SHAPE),
    np.asfortranarray(np.arange(80, dtype=np.uint8).reshape(5, 4, 4)),
    np.arange(16, dtype=np.uint8).reshape(SHAPE),
    np.arange(80, dtype=np.float32).reshape(5, *SHAPE),
  ):
    encoded = io.BytesIO()
    np.save(encoded, array)
    originals.append(encoded.getvalue())
  archive = io.BytesIO()
  np.savez(archive, images=np.zeros((2, *SHAPE), np.uint8))
  originals.append(archive.getvalue())
  said: list[str] = []
  with mutations.no_hang(5 + count / 50):
    for number in range(count):
      whole = originals[number % len(originals)]
      mutate = mutated_header if number % 2 and whole[:2] != b'PK' else mutations.mutated_bytes
      damaged = mutate(rng, whole)
      path = tmp_path / f'{number}.npy'
      path.write_bytes(damaged)
      try:
        with warnings.catch_warnings(action='ignore'):  # NumPy's, of headers of old versions.
          found = to_predict.find(path, SHAPE)
      except ValueError as error:
        said.append(str(error))
      else:
        images = [each.image for batch in found.batches(4) for each in batch]
        assert all(image is not None and image.shape == SHAPE for image in images)
        # Nothing that the file does not hold.
        assert sum(image.size for image in images if image is not None) <= len(damaged)
      path.unlink()
  assert 0 < len(said) < count
  assert all(str(tmp_path) in line and '\n' not in line for line in said)
