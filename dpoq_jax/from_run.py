"""Which examples choose an operating point, and which report on it: never the same."""

import dataclasses
from typing import Any

import numpy as np

from dpoq_jax.data import corrupt, examples
from dpoq_jax.inference.calibration import Examples, split
from dpoq_jax.training import splits
from dpoq_jax.training.restore import Trained


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
  """Examples that a network was not trained on, with its logits.

  Attributes:
    calibration: to choose on.
    reported: to report on.
    images: uint8 [examples, height, width, channels], those reported on; of a streamed set, what
      reads each as it is asked for.
  """

  calibration: Examples
  reported: Examples
  images: Any


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
    CorruptRecordsError: if more of its records than may be skipped cannot be read.
  """
  config = trained.with_data_in(data_dir).config
  tally = corrupt.Tally(config.data.max_corrupt)
  test_set = splits.load_test(config, tally)
  facts = trained.facts
  if (test_set.image_shape, test_set.class_names) != (facts.image_shape, facts.class_names):
    raise ValueError(
      f'data set {config.data.name} has images {test_set.image_shape} of '
      f'{test_set.num_classes} classes; those trained on were {facts.image_shape} of '
      f'{len(facts.class_names)}, or of other names.'
    )
  if config.data.holdout:
    _, holdout_set = splits.load_train(config, tally)
    calibration, _ = _examples(trained, holdout_set)
    reported, intact = _examples(trained, test_set)
    return HeldOut(
      dataclasses.replace(
        calibration, name=f'{len(calibration)} training examples held out of training'
      ),
      dataclasses.replace(reported, name=f'all {len(reported)} test examples'),
      test_set.take(intact).images,
    )
  whole, intact = _examples(trained, test_set)
  first, second = split(len(whole), seed)
  of_test = f'of the {len(whole)} test examples (halves by seed {seed})'
  return HeldOut(
    whole.take(first, f'{len(first)} {of_test}'),
    whole.take(second, f'the other {len(second)} {of_test}'),
    test_set.take(intact[second]).images,
  )


def _examples(trained: Trained, image_set: examples.ExampleSet) -> tuple[Examples, np.ndarray]:
  """Those of a set that could be read, and their indices in it."""
  predictions = trained.predict(image_set)
  return Examples(predictions.logits, predictions.labels, ''), predictions.indices
