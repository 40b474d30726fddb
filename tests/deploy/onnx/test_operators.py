"""Operations that are written in another way for speed give the same integers."""

from typing import Any

import numpy as np
import onnxruntime
import pytest

from dpoq_jax.deploy.onnx import operators as operators
from dpoq_jax.deploy.onnx.operators import Scale, Tensor, Writer


def run(writer: Writer, result: Tensor, x: np.ndarray, features: int) -> Any:
  """Runs a graph of one input `x`; its result has the same size, and both are channels last."""
  last = writer.node('Transpose', result.name, perm=operators.TO_NHWC)
  writer.output(last, 'y', np.uint8, (*x.shape[1:3], features))
  session = onnxruntime.InferenceSession(
    writer.model('test').SerializeToString(), providers=['CPUExecutionProvider']
  )
  return session.run(None, {'x': x})[0]


def given(writer: Writer, x: np.ndarray) -> Tensor:
  """Declares the graph's input."""
  name = writer.input('x', np.uint8, x.shape[1:])
  return Tensor(writer.node('Transpose', name, perm=operators.TO_NCHW), Scale(0.02, 117))


@pytest.mark.parametrize('channels', [1, 2, 3])
@pytest.mark.parametrize('size', [(1, 1), (3, 3), (3, 4), (2, 2), (5, 7), (1, 11)])
def test_a_convolution_in_blocks_is_that_convolution(channels: int, size: tuple[int, int]):
  rng = np.random.default_rng(0)
  x = rng.integers(0, 256, (2, 6, 12, channels), dtype=np.uint8)
  # Small enough for kernels of processors without VNNI, which saturate.
  kernel = rng.integers(-60, 61, (*size, channels, 5))
  gain, bias = rng.uniform(-0.02, 0.02, 5), rng.normal(size=5)
  found = []
  for known in (None, x.shape[1:3]):
    writer = Writer()
    y = writer.convolution(given(writer, x), kernel, gain, bias, Scale(0.1, 128), size=known)
    assert y.name.startswith('transpose' if known else 'quantizelinear')
    found.append(run(writer, y, x, 5))
  assert found[0].std() > 5
  np.testing.assert_array_equal(found[0], found[1])


def test_a_convolution_with_ones_changes_nothing_and_pads():
  x = np.arange(256, dtype=np.uint8).reshape(1, 8, 8, 4)
  writer = Writer()
  images = given(writer, x)
  y = writer.convolution(images, np.eye(4, 8, 2)[None, None], np.ones(8), np.zeros(8), images.scale)
  found = run(writer, y, x, 8)
  np.testing.assert_array_equal(found[..., 2:6], x)
  np.testing.assert_array_equal(found[..., [0, 1, 6, 7]], 117)


@pytest.mark.parametrize('width', [5, 8])
@pytest.mark.parametrize('count', [1, 2, 3])
def test_a_weighted_sum_is_that_of_its_terms_to_a_step(count: int, width: int):
  rng = np.random.default_rng(0)
  x = rng.integers(0, 256, (2, 6, width, 16), dtype=np.uint8)
  writer = Writer()
  first = given(writer, x)
  # The same integers, turned in each further term, on other scales.
  turned = writer.node('Slice', first.name, *(
    writer.constant(np.array([each], np.int64)) for each in (-1, -width - 1, 3, -1)
  ))  # fmt: skip
  scales = [Scale(0.02, 117), Scale(0.05, 0), Scale(0.003, 255)][:count]
  terms = [
    (Tensor(name, scale), rng.uniform(-2, 2, 16))
    for name, scale in zip((first.name, turned, first.name), scales, strict=False)
  ]
  bias, scale = rng.normal(size=16), Scale(0.2, 100)
  found = run(writer, writer.weighted_sum(terms, bias, scale, x.shape[1:3]), x, 16)
  parts = (x, x[:, :, ::-1], x)
  wanted = sum(
    (part.astype(np.float64) - each.zero) * each.step * factor
    for part, (_, factor), each in zip(parts, terms, scales, strict=False)
  )
  wanted = np.clip((wanted + bias) / scale.step + scale.zero, 0, 255)
  assert wanted.std() > 5
  # Half a step of rounding, and weights that are right to half of their 127th part.
  largest = np.max([np.abs(f) * s.step for (_, f), s in zip(terms, scales, strict=True)], axis=0)
  error = 0.51 + (count > 1) * count * 255 * largest / 254 / scale.step
  assert np.all(np.abs(found - wanted) <= error)
  assert np.abs(found - wanted).mean() < 0.5
