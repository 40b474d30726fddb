"""Choosing an operating point: combination, temperatures, point of the curve; and what it is worth.

Everything is chosen on calibration examples and reported on others.
"""

from collections.abc import Iterator, Sequence
import dataclasses
from typing import Any

import numpy as np

from dpoq_jax import onion
from dpoq_jax.inference import combination, curve, exits, operating_point, temperature
from dpoq_jax.inference.operating_point import OperatingPoint, Outcome, Provenance, Target

DEFAULT_TARGET = Target(kind='max_accuracy_drop', value=0.005)

# Room for the last bit when accuracies are compared; far less than one example.
_TOLERANCE = 1e-12


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
  """Logits of all precisions, with labels.

  Attributes:
    logits: [precisions, examples, classes].
    labels: int [examples].
    name: for people: which examples these are.
  """

  logits: np.ndarray
  labels: np.ndarray
  name: str

  def __len__(self) -> int:
    """Number of examples."""
    return len(self.labels)

  def take(self, chosen: np.ndarray, name: str) -> 'Examples':
    """The examples of these indices, in this order."""
    return Examples(self.logits[:, chosen], self.labels[chosen], name)


@dataclasses.dataclass(frozen=True)
class Settings:
  """How operating points are chosen.

  Attributes:
    target: what for.
    order: of the rerun curve.
    combine: what exits predict from; None compares all and keeps the best.
    scale_temperatures: fit a temperature per precision.
    precision: in progress, for a key by hand with the order `precision_first`.
  """

  target: Target = DEFAULT_TARGET
  order: str = 'normalised'
  combine: str | None = None
  scale_temperatures: bool = False
  precision: int | None = None


@dataclasses.dataclass(frozen=True)
class EqualBits:
  """Accuracy of three ways to predict at an average of so many bits, on reported examples.

  Attributes:
    bits: average bits aimed at.
    static: of the precision of so many bits alone; None where there is none.
    ensemble: of that exit's combination, run on every input; likewise.
    dynamic: of the operating point chosen for at most so many average bits.
    dynamic_bits: average bits it then took.
  """

  bits: float
  static: float | None
  ensemble: float | None
  dynamic: float
  dynamic_bits: float


def split(examples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """Two halves without a common example: indices to calibrate on, and to report on.

  Raises:
    ValueError: unless there are two examples.
  """
  if examples < 2:
    raise ValueError(f'{examples} examples cannot be halved: calibration needs its own.')
  order = np.random.default_rng(seed).permutation(examples)
  return np.sort(order[: examples // 2]), np.sort(order[examples // 2 :])


def choose(
  calibration: Examples,
  reported: Examples,
  bits: Sequence[int],
  settings: Settings,
  *,
  dataset: str,
  step: int,
) -> list[OperatingPoint]:
  """Operating points for a target, one per combination that was compared, the best first.

  The best on the calibration examples: a target met before one that is not; then the higher
  accuracy under a limit on cost, the lower cost under a limit on accuracy. Thresholds do not depend
  on the combination under a limit on cost, so there only predictions differ.

  Args:
    calibration: what everything is chosen on.
    reported: what `reported` is measured on; no example may be in both.
    bits: the bit list.
    settings: target and how to get there.
    dataset: its name, for the record.
    step: of the checkpoint, for the record.

  Raises:
    ValueError: for logits, labels or settings that cannot be.
  """
  bits = onion.check_bits(bits)
  for examples in (calibration, reported):
    exits.check_logits(examples.logits, examples.labels, bits)
  temperatures = temperatures_of(calibration, settings.scale_temperatures)
  names = combination.COMBINATIONS if settings.combine is None else (settings.combine,)
  record = Provenance(
    dataset=dataset, step=step, calibration=calibration.name, reported=reported.name
  )
  points = [
    _point(calibration, bits, settings, combine, temperatures).model_copy(
      update={'target': settings.target, 'data': record}
    )
    for combine in names
  ]
  points = [
    point.model_copy(
      update={'expected': outcome(point, calibration), 'reported': outcome(point, reported)}
    )
    for point in points
  ]
  return sorted(points, key=lambda point: _rank(point, settings.target))


def alone(examples: Examples) -> np.ndarray:
  """Whether each precision alone has the label: bool [precisions, examples]."""
  weights = combination.plain_weights('last', len(examples.logits))
  return exits.evaluate(examples.logits, examples.labels, weights).correct


def outcome(point: OperatingPoint, examples: Examples) -> Outcome:
  """What an operating point does with examples whose logits are known."""
  weights, temperatures = tuple(point.weights.values()), tuple(point.temperatures.values())
  known = exits.evaluate(examples.logits, examples.labels, weights, temperatures)
  return outcome_of(point, known)


def outcome_of(point: OperatingPoint, known: exits.Exits) -> Outcome:
  """The same, of what its exits do with every example: to try many thresholds at little cost."""
  left_at = point.left_at(known.confidence)
  return point.outcome(left_at, np.take_along_axis(known.correct, left_at[None], axis=0)[0])


def equal_bits(
  point: OperatingPoint, calibration: Examples, reported: Examples, targets: Sequence[float]
) -> Iterator[EqualBits]:
  """Static, ensemble and dynamic accuracy at equal average bits (Figure 5), reported examples.

  Args:
    point: whose order, combination, weights and temperatures are used.
    calibration: what thresholds are chosen on.
    reported: what accuracies are measured on.
    targets: average bits.
  """
  bits, weights = point.bits, tuple(point.weights.values())
  temperatures = tuple(point.temperatures.values())
  rerun = curve.rerun_curve(
    calibration.logits, calibration.labels, bits, point.order, weights, temperatures
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


def select(
  rerun: curve.RerunCurve, target: Target, reference: float | None = None
) -> tuple[int, bool]:
  """The point of a curve for a target, and whether it meets it.

  Only points that thresholds lead to are considered. If none meets the target, the nearest is
  given: the cheapest for a limit on cost, the most accurate for one on accuracy.

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
  # argmax takes the first, so the cheapest, of equally accurate ones.
  return (
    (int(points[good[accuracy[good].argmax()]]), True) if len(good) else (int(points[0]), False)
  )


def temperatures_of(calibration: Examples, fitted: bool) -> tuple[float, ...]:
  """A temperature per precision: fitted, or 1."""
  if not fitted:
    return (1.0,) * len(calibration.logits)
  return tuple(temperature.fit_temperature(each, calibration.labels) for each in calibration.logits)


def weights_of(combine: str, calibration: Examples, temperatures: Sequence[float]) -> Any:
  """Weights of a combination, those of `weighted` fitted.

  Raises:
    ValueError: for another name.
  """
  if combine == 'weighted':
    return combination.fit_weights(calibration.logits, calibration.labels, temperatures)
  return combination.plain_weights(combine, len(calibration.logits))


def _point(
  calibration: Examples,
  bits: tuple[int, ...],
  settings: Settings,
  combine: str,
  temperatures: Sequence[float],
) -> OperatingPoint:
  weights, target = weights_of(combine, calibration, temperatures), settings.target
  if target.kind == 'key':
    return operating_point.from_key(
      bits, settings.order, target.value, combine, weights, temperatures,
      precision=settings.precision,
    )  # fmt: skip
  rerun = curve.rerun_curve(
    calibration.logits, calibration.labels, bits, settings.order, weights, temperatures
  )
  point, met = select(rerun, target, float(alone(calibration)[-1].mean()))
  return operating_point.from_curve(rerun, point, combine, weights, temperatures, met=met)


def _rank(point: OperatingPoint, target: Target) -> tuple[bool, float, float]:
  """Sorts the best first; equals stay in the order of `combination.COMBINATIONS`."""
  assert point.expected is not None
  inaccuracy, bits = -point.expected.accuracy, point.expected.average_bits
  if target.kind == 'max_accuracy_drop' and point.met:
    return not point.met, bits, inaccuracy
  return not point.met, inaccuracy, bits
