"""Which examples choose an operating point, and which report on it: never the same."""

import dataclasses

import numpy as np

from dpoq_jax.data import sources
from dpoq_jax.inference.calibration import Examples, split
from dpoq_jax.training import experiment
from dpoq_jax.training.trained import Trained


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
  """Examples that a network was not trained on, with its logits.

  Attributes:
    calibration: to choose on.
    reported: to report on.
    images: uint8 [examples, height, width, channels], those reported on.
  """

  calibration: Examples
  reported: Examples
  images: np.ndarray


def run(trained: Trained, data_dir: str | None = None, seed: int = 0) -> HeldOut:
  """Runs all precisions on the examples of a data set that were not trained on.

  The run's own holdout calibrates and the whole test split reports; a run without one has its test
  split halved.

  Args:
    trained: the network.
    data_dir: where the data set is now, if it moved.
    seed: of the halves.

  Raises:
    FileNotFoundError: if the data set is not there.
    ValueError: if its images or classes are not those trained on.
  """
  config = trained.config
  if data_dir:
    data = config.data.model_copy(update={'dir': data_dir})
    config = config.model_copy(update={'data': data})
  test_set = sources.load(config.data.name, 'test', config.data.dir)
  facts = trained.facts
  if (test_set.images.shape[1:], test_set.class_names) != (facts.image_shape, facts.class_names):
    raise ValueError(
      f'data set {config.data.name} has images {test_set.images.shape[1:]} of '
      f'{test_set.num_classes} classes; those trained on were {facts.image_shape} of '
      f'{len(facts.class_names)}, or of other names.'
    )
  if config.data.holdout:
    _, holdout_set = experiment.load_train(config)
    return HeldOut(
      _examples(trained, holdout_set, f'{len(holdout_set)} training examples held out of training'),
      _examples(trained, test_set, f'all {len(test_set)} test examples'),
      test_set.images,
    )
  first, second = split(len(test_set), seed)
  whole = _examples(trained, test_set, '')
  of_test = f'of the {len(test_set)} test examples (halves by seed {seed})'
  return HeldOut(
    whole.take(first, f'{len(first)} {of_test}'),
    whole.take(second, f'the other {len(second)} {of_test}'),
    test_set.images[second],
  )


def _examples(trained: Trained, image_set: sources.ImageSet, name: str) -> Examples:
  predictions = trained.predict(image_set)
  return Examples(predictions.logits, predictions.labels, name)
