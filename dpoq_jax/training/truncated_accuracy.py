"""Measures individual networks whose weights are truncated after training.

That is what one tries first to get several precisions out of one network.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import itertools

import jax

from dpoq_jax.network import companions, onion_network, truncation
from dpoq_jax.network.trainable import Variables
from dpoq_jax.runtime import processes
from dpoq_jax.training.evaluation import Evaluator
from dpoq_jax.training.experiment import Experiment

# Training batches that statistics are estimated anew from: with more of them nothing changes.
_BATCHES = 50


def measure(
  experiment: Experiment,
  variables: Variables,
  between_batches: Callable[[], None] = lambda: None,
) -> dict[int, dict[str, float]]:
  """Measures test accuracy with weights truncated to each of `quantization.truncate_to`.

  Args:
    experiment: experiment that trained the network; an individual one, if anything is truncated.
    variables: variables of the network, trained or frozen.
    between_batches: function that is called after each batch of an evaluation; what it raises ends
      the evaluation.

  Returns:
    `{bits: {'top1': ..., 'top1_reestimated': ...}}`, in [0, 1]: with the running statistics of the
    network as it was trained, and with those of its truncated weights on training images.
  """
  config = experiment.config
  wanted = config.quantization.truncate_to
  if not wanted:
    return {}
  trained = experiment.network
  individual = trained.network if isinstance(trained, companions.Companions) else trained
  assert isinstance(individual, onion_network.Onion)
  frozen = variables if 'onion' in variables else jax.jit(individual.freeze)(variables)
  results: dict[int, dict[str, float]] = {}
  for bits in wanted:
    network, cut = truncation.truncated(individual, frozen, bits)
    evaluate = Evaluator(network, processes.local_mesh())
    first_epoch = dataclasses.replace(experiment.order, epochs=1)
    with contextlib.closing(experiment.train_set.training_batches(first_epoch)) as batches:
      images = (
        experiment.on_devices({'image': batch['image']})['image']
        for batch in itertools.islice(batches, _BATCHES)
      )
      candidates = {'top1': cut, 'top1_reestimated': truncation.reestimated(network, cut, images)}
    results[bits] = {}
    for name, each in candidates.items():
      evaluated = evaluate(
        each, experiment.test_set, config.data.batch_size, between_batches=between_batches
      )
      results[bits][name] = evaluated.top1()[bits]
  return results
