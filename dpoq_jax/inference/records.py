"""Defines the records that an operating point holds: target, outcomes, promise, provenance."""

import pathlib
from typing import Annotated, Literal

import pydantic
from pydantic import Field

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
TargetKind = Literal['average_bits', 'relative_cost', 'max_accuracy_drop', 'key']


def dataset_name(name: str) -> str:
  """Returns the name of a data set without where on this machine it is.

  >>> dataset_name('/data/tensorflow_datasets/imagenet2012/5.1.0')
  'imagenet2012/5.1.0'
  >>> dataset_name('cifar10')
  'cifar10'
  """
  path = pathlib.Path(name).expanduser()
  return '/'.join(path.parts[-2:]) if path.is_absolute() else name


class Record(pydantic.BaseModel):
  """Holds fields that are checked when they are set, and that no field can be added to."""

  model_config = pydantic.ConfigDict(extra='forbid', frozen=True)


class Target(Record):
  """Describes what an operating point is chosen for.

  Attributes:
    kind: `average_bits` or `relative_cost`, an upper limit, under which the accuracy is to be the
      highest; `max_accuracy_drop` below the highest precision alone (0.005 is half a point), a
      limit under which the cost is to be the lowest; or `key`, a point given by hand.
    value: the limit, or the key.
  """

  kind: TargetKind
  value: NonNegative


class Outcome(Record):
  """Describes what an operating point does with a set of examples.

  Attributes:
    examples: number of examples.
    accuracy: top-1, in [0, 1].
    average_bits: mean bits of the precision that inputs left at.
    relative_cost: mean BitOPs, relative to those of the lowest precision.
    exits: share of the inputs that left at each precision.
  """

  examples: Annotated[int, Field(ge=1)]
  accuracy: Share
  average_bits: Positive
  relative_cost: Annotated[float, Field(ge=1)]
  exits: dict[int, Share]


class Provenance(Record):
  """Describes where an operating point comes from.

  Attributes:
    dataset: name of the data set.
    step: step of the checkpoint.
    calibration: examples on which thresholds, weights and temperatures were chosen.
    reported: examples on which `reported` was measured; none of them is among the former.
    split_seed: seed by which the test examples were halved, if they were.
  """

  dataset: str
  step: int
  calibration: str
  reported: str
  split_seed: int | None = None

  def is_of(self, dataset: str) -> bool:
    """Tells whether this is the data set, wherever on a machine either is."""
    return dataset_name(self.dataset) == dataset_name(dataset)


class Promise(Record):
  """Describes how sure it is that new data keep to a target, and what that rests on.

  Attributes:
    confidence: probability, over calibration examples, that the accuracy drop on new data is at
      most the target's.
    test: what bounds the drop: a bet on every example, or the exact binomial test of the losses.
    fitted_on: number of calibration examples that combination, weights, temperatures and
      thresholds come from.
    bounded_on: number of the others, which the promise rests on.
    drop: accuracy drop on these, below the highest precision alone; negative for a gain.
    bound: upper limit of the drop on new data at this confidence, if the point had been the only
      one tested. Of a point that meets the target it was chosen by the same examples: what new data
      are promised is the target.
    examples_needed: if the target is not met, the number of calibration examples with which it
      would be, were the drop on them the same; None if it is met, or if no number would do.
  """

  confidence: Annotated[float, Field(gt=0, lt=1)]
  test: Literal['betting', 'binomial']
  fitted_on: Annotated[int, Field(ge=1)]
  bounded_on: Annotated[int, Field(ge=1)]
  drop: Annotated[float, Field(ge=-1, le=1)]
  bound: Annotated[float, Field(ge=-1, le=1)]
  examples_needed: Annotated[int, Field(ge=1)] | None = None
