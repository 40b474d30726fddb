"""A small batch, which is one program."""

import numpy as np
import pytest

from dpoq_jax.inference import path_programs, small_batch
from tests.inference.test_cascade import MOST, brute_force, images_of, make, point_of


def test_a_small_batch_whose_program_stopped_too_early_is_run_again(monkeypatch):
  logits = np.zeros((2, 2, 3), np.float32)
  point = point_of((2, 4), (0.9, 0.0))

  def stops(network, variables, images, count, limits):
    reached = np.zeros(len(images), np.int32)
    return np.zeros((2, len(images), 3), np.float32), reached

  monkeypatch.setattr(small_batch, 'run_small_batch', stops)
  assert make(logits, point)(images_of([1])).precisions == [4]


@pytest.mark.parametrize('size', range(1, 17))
def test_a_small_batch_runs_paths_on_those_that_go_on_alone(size: int):
  logits = np.random.default_rng(size).normal(0, 2, (3, MOST, 3)).astype(np.float32)
  point = point_of((2, 4, 8), (0.8, 0.8, 0.0))
  _, probabilities, precisions = brute_force(logits[:, :size], point)
  running = make(logits, point, path_batch_size=16)
  result = running(images_of(range(size)))
  np.testing.assert_array_equal(result.precisions, precisions)
  np.testing.assert_allclose(result.probabilities, probabilities, rtol=1e-12)
  counts = running.counts
  assert counts.inputs == [size, (precisions > 2).sum(), (precisions > 4).sum()]
  for inputs, padded in zip(counts.inputs, counts.padded, strict=True):
    # Up to the next power of two, or to an eighth of the largest.
    assert inputs <= padded < max(2 * inputs, 1 + path_programs.bucket(size) // 8)
