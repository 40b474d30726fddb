"""What a user tries first: an individual network, its weights truncated after training."""

from collections.abc import Callable
import contextlib
import dataclasses
import itertools

import jax

from dpoq_jax.network import baselines, onion_network
from dpoq_jax.runtime import processes
from dpoq_jax.training import evaluation, experiment

# Training batches of which statistics are re-estimated: enough that more change nothing.
_BATCHES = 50


def evaluate(
  setup: experiment.Experiment,
  variables: onion_network.Variables,
  between_batches: Callable[[], None] = lambda: None,
) -> dict[int, dict[str, float]]:
  """Test accuracy at each of `quantization.truncate_to`, all else kept, and statistics renewed.

  Args:
    setup: what was trained, an individual network.
    variables: of the network, trained or frozen.
    between_batches: called after each batch of an evaluation; what it raises ends it.

  Returns:
    `{bits: {'top1': ..., 'top1_reestimated': ...}}`, in [0, 1]: with the batch-norm statistics of
    the network as it was trained, and with those of its truncated weights on training images.
  """
  config = setup.config
  wanted = config.quantization.truncate_to
  if not wanted:
    return {}
  assert isinstance(setup.network, onion_network.Onion)
  frozen = variables if 'onion' in variables else jax.jit(setup.network.freeze)(variables)
  results = {}
  for bits in wanted:
    network, cut = baselines.truncated(setup.network, frozen, bits)
    evaluate = evaluation.Evaluator(network, processes.local_mesh())
    first_epoch = dataclasses.replace(setup.order, epochs=1)
    with contextlib.closing(setup.train_set.training_batches(first_epoch)) as batches:
      images = (
        setup.on_devices({'image': batch['image']})['image']
        for batch in itertools.islice(batches, _BATCHES)
      )
      candidates = {'top1': cut, 'top1_reestimated': baselines.reestimated(network, cut, images)}
    results[bits] = {
      name: evaluate(each, setup.test_set, config.data.batch_size, None, between_batches).top1()[
        bits
      ]
      for name, each in candidates.items()
    }
  return results
