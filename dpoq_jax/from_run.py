"""Opens a finished run: its network, its operating point, the examples it was not trained on."""

from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any
import warnings

import numpy as np

from dpoq_jax.data import corrupt_records
from dpoq_jax.data.examples import ExampleSet
from dpoq_jax.inference import calibration as calibration_lib
from dpoq_jax.inference import operating_point
from dpoq_jax.inference.calibration import Examples, split
from dpoq_jax.inference.operating_point import OperatingPoint
from dpoq_jax.network import costs
from dpoq_jax.network.onion_network import Onion
from dpoq_jax.runtime import workdir as workdir_lib
from dpoq_jax.training import splits, trained_network
from dpoq_jax.training.trained_network import Step, Trained


def read_operating_point(
  workdir: pathlib.Path, given: pathlib.Path | None = None
) -> OperatingPoint | None:
  """Reads the operating point of a run, or another one given; None if the run has none.

  Args:
    workdir: of the run.
    given: the file to read instead; it must be there.

  Raises:
    FileNotFoundError: if the file given is not there.
    ValueError: if the file is not an operating point.
  """
  own = workdir / operating_point.FILE
  if given is None and not own.exists():
    return None
  return operating_point.read(given or own)


def open_network(
  workdir: pathlib.Path,
  step: Step | None = None,
  point: OperatingPoint | None = None,
  precision: int | None = None,
) -> Trained[Onion]:
  """Restores the network of a run, frozen, at the checkpoint that an operating point belongs to.

  Args:
    workdir: of the run.
    step: the checkpoint; by default that of the operating point, or the newest intact one.
    point: the operating point that the network is to be used with, if any.
    precision: bits of the one precision that is wanted of a run whose precisions share whole
      kernels, which is an individual network.

  Raises:
    FileNotFoundError, CheckpointError: if there is no run, or no such checkpoint.
    ConfigError: if the run's precisions share whole kernels, and none of them is asked for.
    ValueError: if the operating point was chosen on another data set or for other bits.
  """
  config = workdir_lib.read_config(workdir)
  if point is not None:
    step = point.checkpoint_for(config.data.name, step)
    if point.bits != config.quantization.bits:
      raise ValueError(
        f'the operating point is for bits={point.bits}, the network in {workdir} has '
        f'{config.quantization.bits}.'
      )
  trained = trained_network.load(workdir, step, precision)
  if point is not None:
    warn_of_other_step(point, trained.step)
  return trained


def warn_of_other_step(point: OperatingPoint, step: int) -> None:
  """Warns if an operating point was chosen for another step than a network is of."""
  if point.data is not None and point.data.step != step:
    warnings.warn(
      f'the operating point was chosen for step {point.data.step}, this is step {step}: '
      'what it is worth there is not known.',
      stacklevel=3,
    )


def bitops(network: Onion, image_shape: Sequence[int]) -> tuple[int, ...]:
  """Returns the BitOPs of one image that leaves at each precision, laterals included."""
  return tuple(each.total for each in costs.bitops(network, image_shape))


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
  """Holds examples that a network was not trained on, with its logits.

  Attributes:
    calibration: those to choose an operating point on.
    reported: those to report on; no example is in both.
    whole: all test examples, of which those reported on are half or all.
    split_seed: seed that halved them; None if they were not.
    images: uint8 [examples, height, width, channels], those reported on; of a streamed set, an
      object that reads each as it is asked for.
  """

  calibration: Examples
  reported: Examples
  whole: Examples
  split_seed: int | None
  images: Any


def held_out(trained: Trained[Onion], data_dir: str | None = None, split_seed: int = 0) -> HeldOut:
  """Runs all precisions on the examples of a data set that the network was not trained on.

  The run's own holdout calibrates and the whole test split reports; a run without one has its test
  split halved, by `calibration.split`. A figure on a half belongs beside that of the whole.

  Args:
    trained: the network.
    data_dir: where the data set is now, if it moved.
    split_seed: draws the halves.

  Raises:
    FileNotFoundError: if the data set is not there.
    ValueError: if its images or classes are not those trained on, or other examples would be held
      out than were.
    CorruptRecordsError: if more of its records than may be skipped cannot be read.
  """
  config = trained.with_data_in(data_dir).config
  tally = corrupt_records.Tally(config.data.max_corrupt)
  test_set = splits.load_test(config, tally)
  splits.check_trained_on(config.data, test_set, trained.facts)
  whole, intact = _examples(trained, test_set)
  whole = dataclasses.replace(whole, name=f'all {len(whole)} {test_set.split} examples')
  if config.data.holdout:
    train_set, holdout_set = splits.load_train(config, tally)
    _check_holdout(trained, len(train_set))
    calibration, _ = _examples(trained, holdout_set)
    name = f'{len(calibration)} training examples held out of training'
    calibration = dataclasses.replace(calibration, name=name)
    return HeldOut(calibration, whole, whole, None, test_set.take(intact).images)
  first, second = split(whole, split_seed)
  of_test = f'of the {len(whole)} {test_set.split} examples (like halves, split seed {split_seed})'
  return HeldOut(
    whole.take(first, f'{len(first)} {of_test}'),
    whole.take(second, f'the other {len(second)} {of_test}'),
    whole,
    split_seed,
    test_set.take(intact[second]).images,
  )


def default_operating_point(trained: Trained[Onion], examples: HeldOut) -> OperatingPoint:
  """Returns the operating point that `calibrate` would choose for a run that has none.

  Args:
    trained: the network.
    examples: result of `held_out`.
  """
  return calibration_lib.choose(
    examples.calibration,
    examples.reported,
    trained.network.bits,
    calibration_lib.Settings(),
    dataset=trained.config.data.name,
    step=trained.step,
    bitops=bitops(trained.network, trained.facts.image_shape),
    split_seed=examples.split_seed,
  )[0]


def _check_holdout(trained: Trained[Onion], count: int) -> None:
  """Checks that the draw of the examples held out is that of the training, of as many examples."""
  noted = trained.example_counts.get('training examples', count)
  if noted != count:
    raise ValueError(
      f'data set {trained.config.data.name} has {count} training examples beside those held out, '
      f'and had {noted} when it was trained on: others would be held out, that were trained on.'
    )


def _examples(trained: Trained[Onion], image_set: ExampleSet) -> tuple[Examples, np.ndarray]:
  """Returns the examples of a set that could be read, and their indices in it."""
  predictions = trained.predict(image_set)
  return Examples(predictions.logits, predictions.labels, ''), predictions.indices
