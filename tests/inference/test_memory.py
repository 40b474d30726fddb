import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.cascade import peak_memory
from dpoq_jax import Cascade, CifarResNet, Onion
from dpoq_jax.inference import combination, curve, operating_point


@pytest.mark.nightly
def test_a_large_batch_takes_less_memory_than_the_full_forward_pass():
  network = Onion(CifarResNet(depth=8), bits=(2, 4, 8))
  images = np.random.default_rng(0).integers(0, 256, (1024, 32, 32, 3)).astype(np.uint8)
  variables = jax.jit(network.freeze)(
    jax.jit(network.init)(jax.random.key(0), jnp.asarray(images[:1]))
  )
  apply = jax.jit(network.apply)
  logits = np.asarray(apply(variables, images[:128]))
  rerun = curve.rerun_curve(logits, np.zeros(128, int), network.bits, 'normalised')
  middle = rerun.points[len(rerun.points) // 2]
  point = operating_point.from_curve(
    rerun, middle, 'mean', combination.plain_weights('mean', 3), [1.0] * 3
  )
  cascades = []

  def run():
    # A fresh one, so that its pools are counted.
    cascades[:] = [Cascade(network, variables, point)]
    cascades[0](images)

  ours = peak_memory(run)
  if ours is None:
    pytest.skip('only Linux tells the peak memory of a process')
  assert min(cascades[0].counts.inputs) > 0
  full = peak_memory(lambda: np.asarray(apply(variables, images)))
  assert full is not None
  assert ours < full
