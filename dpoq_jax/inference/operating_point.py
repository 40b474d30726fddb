"""An operating point: which inputs leave where, what exits predict, and what to expect of it.

It is a file, `operating_point.json`, that travels beside a network; nothing here needs JAX.
"""

from collections.abc import Mapping
import pathlib
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pydantic
from pydantic import Field

from dpoq_jax import onion
from dpoq_jax.inference import combination, curve, temperature

FILE = 'operating_point.json'

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Order = Literal['precision_first', 'confidence_first', 'normalised']
TargetKind = Literal['average_bits', 'relative_cost', 'max_accuracy_drop', 'key']


class _Record(pydantic.BaseModel):
  model_config = pydantic.ConfigDict(extra='forbid', frozen=True)


class Target(_Record):
  """What an operating point was chosen for.

  Attributes:
    kind: `average_bits` or `relative_cost`, at most, with the highest accuracy; `max_accuracy_drop`
      below the highest precision alone (0.005 is half a point), at the lowest cost; `key`, by hand.
    value: the number.
  """

  kind: TargetKind
  value: NonNegative


class Outcome(_Record):
  """What an operating point does with a set of examples.

  Attributes:
    examples: how many.
    accuracy: top-1.
    average_bits: mean bits of the precision that inputs left at.
    relative_cost: mean BitOPs, relative to all of them at the lowest precision.
    exits: share of the inputs that left at each precision.
  """

  examples: Annotated[int, Field(ge=1)]
  accuracy: Share
  average_bits: Positive
  relative_cost: Annotated[float, Field(ge=1)]
  exits: dict[int, Share]


class Provenance(_Record):
  """Where an operating point comes from.

  Attributes:
    dataset: its name.
    step: of the checkpoint.
    calibration: the examples on which thresholds, weights and temperatures were chosen.
    reported: the examples on which `reported` was measured; none is among the former.
  """

  dataset: str
  step: int
  calibration: str
  reported: str


class Left(NamedTuple):
  """Where inputs leave, and with what.

  Attributes:
    labels: int64 [examples], the most probable class.
    probabilities: float64 [examples, classes], of the combination at the exit.
    exits: int64 [examples], index of the last precision run.
  """

  labels: np.ndarray
  probabilities: np.ndarray
  exits: np.ndarray


class OperatingPoint(_Record):
  """Thresholds and all that belongs to them; mappings are by precision, in bits.

  Attributes:
    format: version of the file.
    bits: the bit list.
    order: of the rerun curve it is a point of.
    key: of that point.
    precision: in progress there; with the order `precision_first` only.
    thresholds: an input leaves at a precision if its confidence there is at least this: 0 lets
      everything leave, above 1 nothing. The highest precision lets everything leave.
    combine: what an exit predicts from, one of `combination.COMBINATIONS`.
    weights: of the precisions run, for each exit.
    temperatures: what logits are divided by.
    target: what it was chosen for.
    met: whether that could be had on the calibration examples.
    expected: outcome on the calibration examples.
    reported: outcome on examples that had no part in choosing it.
    data: which examples those are.
  """

  format: Literal[1] = 1
  bits: tuple[int, ...]
  order: Order = 'normalised'
  key: NonNegative
  precision: int | None = None
  thresholds: dict[int, NonNegative]
  combine: Literal['mean', 'last', 'weighted'] = 'mean'
  weights: dict[int, tuple[NonNegative, ...]]
  temperatures: dict[int, Positive]
  target: Target | None = None
  met: bool = True
  expected: Outcome | None = None
  reported: Outcome | None = None
  data: Provenance | None = None

  @pydantic.model_validator(mode='after')
  def _mappings_are_by_precision(self) -> 'OperatingPoint':
    bits = onion.check_bits(self.bits)
    for name in ('thresholds', 'weights', 'temperatures'):
      by_precision = getattr(self, name)
      if sorted(by_precision) != list(bits):
        raise ValueError(f'{name} needs one entry for each of bits={bits}')
      # In that order, whatever a tool that sorts keys as text made of the file.
      object.__setattr__(self, name, {b: by_precision[b] for b in bits})
    for count, (precision, weights) in enumerate(self.weights.items(), start=1):
      if len(weights) != count or not sum(weights) > 0:
        raise ValueError(f'weights of {precision} bits: {count} are needed, not all 0')
    return self

  def capped(self, precision: int) -> 'OperatingPoint':
    """The same with everything leaving at `precision` bits at the latest.

    Raises:
      ValueError: for a precision that is not in the bit list.
    """
    if precision not in self.bits:
      raise ValueError(f'precision {precision}: this network has {self.bits}.')
    return self.model_copy(update={'thresholds': {**self.thresholds, precision: 0.0}})

  def check(self, dataset: str, step: int | Literal['best'] | None) -> int | Literal['best'] | None:
    """The checkpoint to use it with: its own, unless `step` is given.

    Raises:
      ValueError: if it was chosen on another data set.
    """
    if self.data is None:
      return step
    if self.data.dataset != dataset:
      raise ValueError(
        f'this operating point was chosen on {self.data.dataset}, the network is for {dataset}.'
      )
    return self.data.step if step is None else step

  def probabilities(self, index: int, logits: np.ndarray) -> np.ndarray:
    """Softmax of precision `index`, from 0, at its temperature: float64 [..., classes]."""
    return temperature.probabilities(logits, self.temperatures[self.bits[index]])

  def leaving(self, index: int, confidence: np.ndarray) -> np.ndarray:
    """Which inputs of this confidence leave at precision `index`: bool, of the same shape."""
    if index == len(self.bits) - 1:
      return np.ones(confidence.shape, bool)
    return confidence >= self.thresholds[self.bits[index]]

  def left_at(self, confidence: np.ndarray) -> np.ndarray:
    """Index of the precision each input leaves at, int64 [examples].

    Args:
      confidence: [precisions, examples].
    """
    return np.array([self.leaving(k, each) for k, each in enumerate(confidence)]).argmax(axis=0)

  def combined(self, run: list[np.ndarray]) -> np.ndarray:
    """Prediction of the exit reached when these probabilities [..., classes] have been run."""
    return combination.combined(run, self.weights[self.bits[len(run) - 1]])

  def predict(self, logits: np.ndarray) -> Left:
    """What happens to inputs of which the logits of all precisions are known.

    Args:
      logits: [precisions, examples, classes].
    """
    run = [self.probabilities(k, each) for k, each in enumerate(logits)]
    left_at = self.left_at(np.array([each.max(axis=-1) for each in run]))
    probabilities = np.empty(run[0].shape)
    for k in range(len(run)):
      here = left_at == k
      probabilities[here] = self.combined([each[here] for each in run[: k + 1]])
    return Left(probabilities.argmax(axis=-1), probabilities, left_at)

  def outcome(self, left_at: np.ndarray, correct: np.ndarray) -> Outcome:
    """What it came to.

    Args:
      left_at: [examples], index of the precision each input left at.
      correct: bool [examples].
    """
    counts = np.bincount(left_at, minlength=len(self.bits))
    # Integers until the last division, as the curve has it.
    average_bits = int(counts @ np.array(self.bits)) / len(left_at)
    return Outcome(
      examples=len(left_at),
      accuracy=int(correct.sum()) / len(left_at),
      average_bits=average_bits,
      relative_cost=average_bits / self.bits[0],
      exits={b: int(count) / len(left_at) for b, count in zip(self.bits, counts, strict=True)},
    )

  def to_json(self) -> str:
    """The content of the file."""
    return self.model_dump_json(indent=2) + '\n'


def from_curve(
  rerun: curve.RerunCurve, point: int, combine: str, weights: Any, temperatures: Any, **known: Any
) -> OperatingPoint:
  """The operating point of a state of a curve.

  Args:
    rerun: the curve.
    point: index of a state that thresholds lead to.
    combine: name of the combination.
    weights: row k those of exit k.
    temperatures: one per precision.
    **known: further fields.

  Raises:
    ValueError: if thresholds do not lead there.
  """
  by_precision = dict(zip(rerun.bits, rerun.thresholds(point), strict=True))
  return _build(
    rerun.bits, combine, weights, temperatures,
    order=rerun.order, key=rerun.middle_key(point), precision=rerun.in_progress(point),
    thresholds=by_precision, **known,
  )  # fmt: skip


def from_key(
  bits: tuple[int, ...],
  order: str,
  key: float,
  combine: str,
  weights: Any,
  temperatures: Any,
  *,
  precision: int | None = None,
  **known: Any,
) -> OperatingPoint:
  """The operating point of a key given by hand; see `from_curve`, `curve.thresholds_of_key`."""
  thresholds = curve.thresholds_of_key(order, key, bits, precision)
  return _build(
    bits, combine, weights, temperatures,
    order=order, key=key, precision=precision,
    thresholds=dict(zip(bits, thresholds, strict=True)), **known,
  )  # fmt: skip


def static(bits: tuple[int, ...], precision: int) -> OperatingPoint:
  """Everything runs up to one precision, which alone predicts.

  Raises:
    ValueError: for a precision that is not in the bit list.
  """
  weights = combination.plain_weights('last', len(bits))
  point = from_key(bits, 'confidence_first', curve.NEVER, 'last', weights, (1.0,) * len(bits))
  return point.capped(precision)


def from_json(text: str) -> OperatingPoint:
  """Reads what `to_json` wrote.

  Raises:
    ValueError: one line that names the first bad field.
  """
  try:
    return OperatingPoint.model_validate_json(text)
  except pydantic.ValidationError as error:
    first: Mapping[str, Any] = error.errors()[0]
    field = '.'.join(map(str, first['loc'])) or 'file'
    reason = first['msg'].removeprefix('Value error, ')
    raise ValueError(f'not an operating point: {field}: {reason}.') from None


def read(path: pathlib.Path) -> OperatingPoint:
  """Reads an operating point from a file, or from the file of its usual name in a folder.

  Raises:
    FileNotFoundError: if there is none.
    ValueError: if the file is not one.
  """
  path = path / FILE if path.is_dir() else path
  try:
    return from_json(path.read_text('utf-8'))
  except FileNotFoundError:
    raise FileNotFoundError(
      f'no operating point in {path}: choose one with python -m dpoq_jax.calibrate.'
    ) from None
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None


def _build(
  bits: tuple[int, ...], combine: str, weights: Any, temperatures: Any, **fields: Any
) -> OperatingPoint:
  return OperatingPoint.model_validate(
    {
      'bits': bits,
      'combine': combine,
      'weights': dict(zip(bits, weights, strict=True)),
      'temperatures': dict(zip(bits, temperatures, strict=True)),
      **fields,
    }
  )
