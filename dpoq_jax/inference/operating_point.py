"""Defines the operating point: which inputs leave where, what exits predict, what that is worth.

It is a file, `operating_point.json`, that is kept beside a network; nothing here needs JAX.
"""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
from pydantic import Field

from dpoq_jax import onion
from dpoq_jax.inference import combination, curve, temperature
from dpoq_jax.inference.combination import Combination, Weights
from dpoq_jax.inference.curve import Order
from dpoq_jax.inference.exits import ExitPredictions
from dpoq_jax.inference.records import (
  NonNegative,
  Outcome,
  Positive,
  Promise,
  Provenance,
  Record,
  Target,
)
from dpoq_jax.runtime import files

FILE = 'operating_point.json'

_Width = Annotated[int, Field(ge=1, le=32)]
# Sums over a million inputs stay integers of 64 bits.
_BitOps = Annotated[int, Field(ge=1, le=2**43)]

Checkpoint = int | Literal['best'] | None
"""Step of a checkpoint, the best one, or None for the newest intact one."""


class OperatingPoint(Record):
  """Holds thresholds and all that belongs to them; mappings are by precision, in bits.

  Attributes:
    format: version of the file.
    bits: the bit list.
    bitops: BitOPs of an input that leaves at each precision, up to a common factor; by default the
      bits themselves, the paper's cost.
    activation_bits: activation bits of each precision, of which files that have no `bitops` say
      what convolutions cost; not kept.
    order: order of the rerun curve of which this is a point.
    key: key of that point.
    precision: precision in progress there, for the order `precision_first` only.
    thresholds: lowest confidence with which an input leaves at a precision: 0 lets every input
      leave, above 1 none. At the highest precision every input leaves.
    combine: what an exit predicts from, one of `combination.COMBINATIONS`.
    weights: for each exit, the weights of the precisions that were run.
    temperatures: divisors of the logits.
    target: what the point was chosen for.
    met: whether the target could be met on the calibration examples; with a promise, whether new
      data can be promised to meet it.
    promise: how sure that is; None for a point that was chosen without.
    expected: outcome on the calibration examples.
    reported: outcome on examples that had no part in the choice.
    data: names of these examples, and of the checkpoint.
  """

  format: Literal[1] = 1
  bits: tuple[int, ...]
  bitops: tuple[_BitOps, ...] = ()
  activation_bits: Annotated[tuple[_Width, ...] | None, Field(exclude=True)] = None
  order: Order = 'normalised'
  key: NonNegative
  precision: int | None = None
  thresholds: dict[int, NonNegative]
  combine: Combination = 'mean'
  weights: dict[int, tuple[NonNegative, ...]]
  temperatures: dict[int, Positive]
  target: Target | None = None
  met: bool = True
  promise: Promise | None = None
  expected: Outcome | None = None
  reported: Outcome | None = None
  data: Provenance | None = None

  @pydantic.model_validator(mode='after')
  def _mappings_are_by_precision(self) -> 'OperatingPoint':
    bits = onion.check_bits(self.bits)
    bitops = self.bitops or onion.bitops(bits, self.activation_bits or 1)
    object.__setattr__(self, 'bitops', curve.check_bitops(bitops, bits))
    object.__setattr__(self, 'activation_bits', None)
    for name in ('thresholds', 'weights', 'temperatures'):
      by_precision = getattr(self, name)
      if sorted(by_precision) != list(bits):
        raise ValueError(f'{name} needs one entry for each of bits={bits}')
      # In the order of the bits: a tool that wrote the file anew may have sorted its keys as text.
      object.__setattr__(self, name, {b: by_precision[b] for b in bits})
    for count, (precision, weights) in enumerate(self.weights.items(), start=1):
      if len(weights) != count or not sum(weights) > 0:
        raise ValueError(f'weights of {precision} bits: {count} are needed, not all 0')
    if self.promise and (self.target is None or self.target.kind != 'max_accuracy_drop'):
      raise ValueError('promise needs a target of max_accuracy_drop')
    return self

  def capped(self, precision: int) -> 'OperatingPoint':
    """Returns the point at which inputs leave at `precision` bits at the latest, of unknown worth.

    Raises:
      ValueError: for a precision that is not in the bit list.
    """
    onion.check_precision(precision, self.bits)
    unknown = dict.fromkeys(('target', 'promise', 'expected', 'reported'))
    return self.model_copy(update={**unknown, 'thresholds': {**self.thresholds, precision: 0.0}})

  def lowest(self, count: int) -> 'OperatingPoint':
    """Returns the point for the network of the lowest `count` paths alone, of unknown worth.

    Its highest precision, at which every input leaves, is the highest one that is left.
    """
    if count == len(self.bits):
      return self
    kept = self.bits[:count]
    thresholds = self.capped(kept[-1]).thresholds
    return OperatingPoint(
      bits=kept,
      bitops=self.bitops[:count],
      order=self.order,
      key=self.key,
      thresholds={b: thresholds[b] for b in kept},
      combine=self.combine,
      weights={b: self.weights[b] for b in kept},
      temperatures={b: self.temperatures[b] for b in kept},
      data=self.data,
    )

  def checkpoint_for(self, dataset: str, step: Checkpoint) -> Checkpoint:
    """Chooses the checkpoint to load: `step` if it is given, else the one the point was chosen for.

    Args:
      dataset: data set of the network that the point is to be used with.
      step: the checkpoint that was asked for.

    Raises:
      ValueError: if the point was chosen on another data set.
    """
    if self.data is None:
      return step
    if not self.data.is_of(dataset):
      raise ValueError(
        f'this operating point was chosen on {self.data.dataset}, the network is for {dataset}.'
      )
    return self.data.step if step is None else step

  def probabilities(self, index: int, logits: np.ndarray) -> np.ndarray:
    """Returns the softmax of logits [..., classes] of precision `index`, at its temperature."""
    return temperature.probabilities(logits, self.temperatures[self.bits[index]])

  def leaving(self, index: int, confidence: np.ndarray) -> np.ndarray:
    """Returns whether inputs of these confidences leave at precision `index`: bool, same shape."""
    if index == len(self.bits) - 1:
      return np.ones(confidence.shape, bool)
    return confidence >= self.thresholds[self.bits[index]]

  @property
  def scaled(self) -> bool:
    """Tells whether temperatures were fitted: without them all are 1."""
    return any(each != 1 for each in self.temperatures.values())

  def left_at(self, confidence: np.ndarray) -> np.ndarray:
    """Returns the index of the precision that each input leaves at, int64 [examples].

    Args:
      confidence: [precisions, examples].
    """
    return np.array([self.leaving(k, each) for k, each in enumerate(confidence)]).argmax(axis=0)

  def combined(self, run: Sequence[np.ndarray]) -> np.ndarray:
    """Returns what the exit of the last precision run predicts, float64 [..., classes].

    Args:
      run: probabilities [..., classes] of each precision run, from the lowest up.
    """
    return combination.combined(run, self.weights[self.bits[len(run) - 1]])

  def predict(self, logits: np.ndarray) -> ExitPredictions:
    """Returns the exit and the prediction of inputs whose logits of all precisions are known.

    Args:
      logits: [precisions, examples, classes].
    """
    run = [self.probabilities(k, each) for k, each in enumerate(logits)]
    left_at = self.left_at(np.array([each.max(axis=-1) for each in run]))
    probabilities = np.empty(run[0].shape)
    for k in range(len(run)):
      here = left_at == k
      probabilities[here] = self.combined([each[here] for each in run[: k + 1]])
    return ExitPredictions(probabilities.argmax(axis=-1), probabilities, left_at)

  def outcome(self, left_at: np.ndarray, correct: np.ndarray) -> Outcome:
    """Returns the outcome on examples whose exits are known.

    Args:
      left_at: int64 [examples], index of the precision each input left at.
      correct: bool [examples], whether it was predicted right there.
    """
    counts = np.bincount(left_at, minlength=len(self.bits))
    # Integers until the last division, as in the curve, so that both are equal to the last bit.
    average_bits = int(counts @ np.array(self.bits)) / len(left_at)
    average_bitops = int(counts @ np.array(self.bitops)) / len(left_at)
    return Outcome(
      examples=len(left_at),
      accuracy=int(correct.sum()) / len(left_at),
      average_bits=average_bits,
      relative_cost=average_bitops / self.bitops[0],
      exits={b: int(count) / len(left_at) for b, count in zip(self.bits, counts, strict=True)},
    )

  def to_json(self) -> str:
    """Returns the content of the file."""
    left_out = {'promise'} if self.promise is None else set[str]()
    return self.model_dump_json(indent=2, exclude=left_out) + '\n'


def from_curve(
  rerun: curve.RerunCurve,
  point: int,
  combine: Combination,
  weights: Weights,
  temperatures: Sequence[float],
  **fields: Any,
) -> OperatingPoint:
  """Returns the operating point of a state of a curve.

  Args:
    rerun: the curve.
    point: index of a state that thresholds lead to.
    combine: name of the combination.
    weights: weights of every exit; entry k holds the `k + 1` of exit k.
    temperatures: one per precision.
    **fields: further fields of the operating point.

  Raises:
    ValueError: if thresholds do not lead there.
  """
  by_precision = dict(zip(rerun.bits, rerun.thresholds(point), strict=True))
  return _build(
    rerun.bits, combine, weights, temperatures,
    bitops=rerun.bitops, order=rerun.order, key=rerun.middle_key(point),
    precision=rerun.in_progress(point), thresholds=by_precision, **fields,
  )  # fmt: skip


def from_key(
  bits: tuple[int, ...],
  order: Order,
  key: float,
  combine: Combination,
  weights: Weights,
  temperatures: Sequence[float],
  *,
  precision: int | None = None,
  **fields: Any,
) -> OperatingPoint:
  """Returns the operating point of a key given by hand.

  The arguments are those of `from_curve` and of `curve.thresholds_of_key`.
  """
  thresholds = curve.thresholds_of_key(order, key, bits, precision)
  return _build(
    bits, combine, weights, temperatures,
    order=order, key=key, precision=precision,
    thresholds=dict(zip(bits, thresholds, strict=True)), **fields,
  )  # fmt: skip


def static(
  bits: tuple[int, ...], precision: int, bitops: Sequence[int] | None = None
) -> OperatingPoint:
  """Returns the operating point at which every input leaves at one precision, which alone predicts.

  Raises:
    ValueError: for a precision that is not in the bit list.
  """
  weights = combination.plain_weights('last', len(bits))
  point = from_key(
    bits, 'confidence_first', curve.NEVER, 'last', weights, (1.0,) * len(bits),
    bitops=bitops or bits,
  )  # fmt: skip
  return point.capped(precision)


def from_json(text: str) -> OperatingPoint:
  """Returns the operating point that `to_json` wrote.

  Raises:
    ValueError: if the text is not one, with the first bad field.
  """
  try:
    return OperatingPoint.model_validate_json(text)
  except pydantic.ValidationError as error:
    first: Mapping[str, Any] = error.errors()[0]
    field = '.'.join(map(str, first['loc'])) or 'file'
    reason = first['msg'].removeprefix('Value error, ')
    raise ValueError(f'not an operating point: {field}: {reason}.') from None


def is_met(path: pathlib.Path) -> bool:
  """Tells whether a file holds an operating point that met its target."""
  try:
    return from_json(files.read_regular(path).decode()).met
  except (OSError, ValueError):
    return False


def read(path: pathlib.Path) -> OperatingPoint:
  """Reads an operating point from a file, or from the file of its usual name in a folder.

  Raises:
    FileNotFoundError: if the file does not exist.
    ValueError: if the file is no operating point, or no regular file.
  """
  path = path / FILE if path.is_dir() else path
  try:
    content = files.read_regular(path)
  except FileNotFoundError:
    raise FileNotFoundError(
      f'there is no operating point {path}: choose one with dpoq calibrate.'
    ) from None
  try:
    return from_json(content.decode())
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None


def _build(
  bits: tuple[int, ...],
  combine: Combination,
  weights: Weights,
  temperatures: Sequence[float],
  **fields: Any,
) -> OperatingPoint:
  """Returns an operating point with its mappings by precision, after checking every field."""
  return OperatingPoint.model_validate(
    {
      'bits': bits,
      'combine': combine,
      'weights': dict(zip(bits, weights, strict=True)),
      'temperatures': dict(zip(bits, temperatures, strict=True)),
      **fields,
    }
  )
