"""Chooses an operating point: combination, temperatures and thresholds; measures what it is worth.

Everything is chosen on calibration examples and reported on others.
"""

from collections.abc import Iterator, Sequence
import dataclasses

import numpy as np

from dpoq_jax import onion
from dpoq_jax.inference import combination, curve, exits, operating_point, promise, temperature
from dpoq_jax.inference.combination import Combination
from dpoq_jax.inference.curve import Order
from dpoq_jax.inference.examples import Examples, alone
from dpoq_jax.inference.operating_point import OperatingPoint, Outcome, Provenance, Target

DEFAULT_TARGET = Target(kind='max_accuracy_drop', value=0.005)

# Accuracies and costs count as equal if they differ in the last bits; far less than one example.
_TOLERANCE = 1e-12


@dataclasses.dataclass(frozen=True)
class Settings:
  """Describes how operating points are chosen.

  Attributes:
    target: what they are chosen for.
    order: order of the rerun curve.
    combine: what exits predict from; None compares all combinations.
    scale_temperatures: whether to fit a temperature per precision; they are 1 otherwise.
    precision: precision in progress, for a key by hand with the order `precision_first`.
    reference: accuracy that `max_accuracy_drop` is counted from, on the calibration examples; None
      is that of the highest precision alone.
    confidence: probability with which new data are to keep to the target, which then is to be a
      `max_accuracy_drop`; None promises nothing.

  Raises:
    ValueError: for a confidence that is no probability, or one in another target.
  """

  target: Target = DEFAULT_TARGET
  order: Order = 'normalised'
  combine: Combination | None = None
  scale_temperatures: bool = False
  precision: int | None = None
  reference: float | None = None
  confidence: float | None = None

  def __post_init__(self):
    """Checks the confidence."""
    if self.confidence is None:
      return
    if not 0 < self.confidence < 1:
      raise ValueError(f'confidence={self.confidence}: give a number between 0 and 1, such as 0.9.')
    if self.reference is not None:
      raise ValueError('only a drop from the highest precision alone can be promised.')
    if self.target.kind != 'max_accuracy_drop':
      raise ValueError(
        f'confidence={self.confidence:g} with a target of {self.target.kind}: only a '
        'max_accuracy_drop can be promised. Give that, or leave the confidence out.'
      )


@dataclasses.dataclass(frozen=True)
class EqualBits:
  """Compares three ways to predict with the same average bits, by accuracy on reported examples.

  Attributes:
    bits: limit on the average bits.
    static: accuracy of the precision of these bits alone; None where there is no such precision.
    ensemble: accuracy if every input runs up to that precision and leaves there; None likewise.
    dynamic: accuracy of the operating point chosen for at most these average bits.
    dynamic_bits: average bits that this operating point takes.
  """

  bits: float
  static: float | None
  ensemble: float | None
  dynamic: float
  dynamic_bits: float


def split(examples: Examples, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """Returns two halves of the examples that are alike, as indices to calibrate and to report on.

  The two of equal label that are next to one another in confidence, averaged over precisions, part:
  which of them goes where is drawn. So both halves have as many of each class, give or take one,
  and inputs as easy; how often the network is right about them has no part in it.

  Raises:
    ValueError: if there are fewer than two examples.
  """
  if len(examples) < 2:
    raise ValueError(f'{len(examples)} examples cannot be halved: calibration needs its own.')
  weights = combination.plain_weights('last', len(examples.logits))
  confidence = exits.evaluate(examples.logits, examples.labels, weights).confidence.mean(axis=0)
  order = np.lexsort((confidence, examples.labels))
  pairs = order[: len(order) // 2 * 2].reshape(-1, 2)
  first = np.random.default_rng(seed).integers(0, 2, len(pairs))
  both = np.arange(len(pairs))
  return np.sort(pairs[both, first]), np.sort(
    np.append(pairs[both, 1 - first], order[pairs.size :])
  )


def choose(
  calibration: Examples,
  reported: Examples,
  bits: Sequence[int],
  settings: Settings,
  *,
  dataset: str,
  step: int,
  bitops: Sequence[int] | None = None,
  split_seed: int | None = None,
) -> list[OperatingPoint]:
  """Returns operating points for a target, one per combination that was compared, the best first.

  The best is found on the calibration examples. Those that meet the target come before those that
  do not; of these, under a limit on cost, the more accurate comes first, and under a limit on
  accuracy the cheaper. Under a limit on cost all combinations have the same thresholds.

  With a confidence there is one point, that of `promise.choose`: its combination was compared,
  and all but the choice of the point fitted, on a part of the calibration examples. Examples are
  taken to be independent draws of what new data are.

  Args:
    calibration: examples that everything is chosen on.
    reported: examples that `reported` is measured on; none may be among the former.
    bits: the bit list.
    settings: the target, and how to get there.
    dataset: name of the data set, for the record.
    step: step of the checkpoint, for the record.
    bitops: BitOPs of an input that leaves at each precision; see `curve.rerun_curve`.
    split_seed: seed that halved the test examples, if they were, for the record; it also draws the
      part of the calibration examples that a promise is fitted on.

  Raises:
    ValueError: for logits and labels that do not fit one another and the bits, for an order,
      combination, key, precision or BitOPs that are not allowed, and for a promise on
      fewer than two examples.
  """
  bits = onion.check_bits(bits)
  for examples in (calibration, reported):
    exits.check_logits(examples.logits, examples.labels, bits)
  names = combination.COMBINATIONS if settings.combine is None else (settings.combine,)
  if settings.confidence is None:
    temperatures = temperature.temperatures_of(
      calibration.logits, calibration.labels, settings.scale_temperatures
    )
    points = [
      _point(calibration, bits, settings, combine, temperatures, bitops) for combine in names
    ]
  else:
    points = [
      promise.choose(
        calibration,
        bits,
        names,
        order=settings.order,
        scale_temperatures=settings.scale_temperatures,
        limit=settings.target.value,
        confidence=settings.confidence,
        bitops=bitops,
        seed=split_seed or 0,
      )
    ]
  record = Provenance(
    dataset=dataset, step=step, calibration=calibration.name, reported=reported.name,
    split_seed=split_seed,
  )  # fmt: skip
  points = [
    point.model_copy(
      update={
        'target': settings.target,
        'data': record,
        'expected': outcome(point, calibration),
        'reported': outcome(point, reported),
      }
    )
    for point in points
  ]
  return sorted(points, key=lambda point: _rank(point, settings.target))


def outcome(point: OperatingPoint, examples: Examples) -> Outcome:
  """Returns what an operating point does with examples whose logits are known."""
  weights, temperatures = tuple(point.weights.values()), tuple(point.temperatures.values())
  known = exits.evaluate(examples.logits, examples.labels, weights, temperatures)
  return outcome_of(point, known)


def outcome_of(point: OperatingPoint, known: exits.Exits) -> Outcome:
  """Returns what an operating point does, given its exits: much cheaper for many thresholds."""
  left_at = point.left_at(known.confidence)
  return point.outcome(left_at, np.take_along_axis(known.correct, left_at[None], axis=0)[0])


def equal_bits(
  point: OperatingPoint, calibration: Examples, reported: Examples, targets: Sequence[float]
) -> Iterator[EqualBits]:
  """Yields static, ensemble and dynamic accuracy at equal average bits (Figure 5).

  Args:
    point: operating point whose order, combination, weights and temperatures are used.
    calibration: examples that thresholds are chosen on.
    reported: examples that accuracies are measured on.
    targets: limits on the average bits.
  """
  bits, weights = point.bits, tuple(point.weights.values())
  temperatures = tuple(point.temperatures.values())
  rerun = curve.rerun_curve(
    calibration.logits,
    calibration.labels,
    bits,
    point.order,
    weights,
    temperatures,
    point.bitops,
  )
  known = exits.evaluate(reported.logits, reported.labels, weights, temperatures)
  static = alone(reported)
  for target in targets:
    state, _ = select(rerun, Target(kind='average_bits', value=target))
    chosen = operating_point.from_curve(rerun, state, point.combine, weights, temperatures)
    dynamic = outcome_of(chosen, known)
    k = bits.index(int(target)) if target in bits else None
    yield EqualBits(
      bits=target,
      static=None if k is None else float(static[k].mean()),
      ensemble=None if k is None else float(known.correct[k].mean()),
      dynamic=dynamic.accuracy,
      dynamic_bits=dynamic.average_bits,
    )


def reached(target: Target, outcome: Outcome, reference: float) -> float | None:
  """Returns what a target limits, as it is on some examples; None for a key, which limits nothing.

  Args:
    target: the target.
    outcome: what an operating point does with the examples.
    reference: accuracy of the highest precision alone on them.
  """
  if target.kind == 'max_accuracy_drop':
    return reference - outcome.accuracy
  return {
    'average_bits': outcome.average_bits, 'relative_cost': outcome.relative_cost, 'key': None
  }[target.kind]  # fmt: skip


def meets(target: Target, outcome: Outcome, reference: float) -> bool:
  """Tells whether an outcome keeps to the limit of a target; see `reached`."""
  value = reached(target, outcome, reference)
  return value is None or value <= target.value + _TOLERANCE


def select(
  rerun: curve.RerunCurve, target: Target, reference: float | None = None
) -> tuple[int, bool]:
  """Returns the point of a curve that is best for a target, and whether it meets the target.

  Only points that thresholds lead to are considered. If none meets the target, the nearest is
  returned: the cheapest for a limit on cost, the most accurate for one on accuracy.

  Args:
    rerun: the curve.
    target: any but a key.
    reference: accuracy that `max_accuracy_drop` is counted from.
  """
  points = rerun.points
  accuracy = rerun.accuracy[points]
  if target.kind == 'max_accuracy_drop':
    assert reference is not None
    good = np.flatnonzero(accuracy >= reference - target.value - _TOLERANCE)
    return (int(points[good[0]]), True) if len(good) else (int(points[accuracy.argmax()]), False)
  spent = {'average_bits': rerun.average_bits, 'relative_cost': rerun.cost}[target.kind][points]
  good = np.flatnonzero(spent <= target.value + _TOLERANCE)
  # Of equally accurate points argmax takes the first, which is the cheapest.
  return (
    (int(points[good[accuracy[good].argmax()]]), True) if len(good) else (int(points[0]), False)
  )


def _point(
  calibration: Examples,
  bits: tuple[int, ...],
  settings: Settings,
  combine: Combination,
  temperatures: Sequence[float],
  bitops: Sequence[int] | None,
) -> OperatingPoint:
  """Returns the operating point of one combination, without its outcomes."""
  weights = combination.weights_of(combine, calibration.logits, calibration.labels, temperatures)
  target = settings.target
  if target.kind == 'key':
    return operating_point.from_key(
      bits, settings.order, target.value, combine, weights, temperatures,
      precision=settings.precision, bitops=bitops or bits,
    )  # fmt: skip
  rerun = curve.rerun_curve(
    calibration.logits,
    calibration.labels,
    bits,
    settings.order,
    weights,
    temperatures,
    bitops,
  )
  reference = settings.reference
  if reference is None:
    reference = float(alone(calibration)[-1].mean())
  point, met = select(rerun, target, reference)
  return operating_point.from_curve(rerun, point, combine, weights, temperatures, met=met)


def _rank(point: OperatingPoint, target: Target) -> tuple[bool, float, float]:
  """Returns a key that sorts the best first; equals stay in the order of `COMBINATIONS`."""
  assert point.expected is not None
  inaccuracy, cost = -point.expected.accuracy, point.expected.relative_cost
  if target.kind == 'max_accuracy_drop' and point.met:
    return not point.met, cost, inaccuracy
  return not point.met, inaccuracy, cost
