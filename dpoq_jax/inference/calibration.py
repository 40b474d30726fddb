"""Chooses an operating point: combination, temperatures and thresholds; measures what it is worth.

Everything is chosen on calibration examples and reported on others.
"""

from collections.abc import Iterator, Sequence
import dataclasses

import numpy as np

from dpoq_jax import onion
from dpoq_jax.inference import combination, curve, exits, operating_point, temperature
from dpoq_jax.inference.combination import Combination, Weights
from dpoq_jax.inference.curve import Order
from dpoq_jax.inference.operating_point import OperatingPoint, Outcome, Provenance, Target

DEFAULT_TARGET = Target(kind='max_accuracy_drop', value=0.005)

# Accuracies and costs count as equal if they differ in the last bits; far less than one example.
_TOLERANCE = 1e-12


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
  """Holds the logits of all precisions on labelled examples.

  Attributes:
    logits: [precisions, examples, classes].
    labels: int [examples].
    name: description of the examples, for people.
  """

  logits: np.ndarray
  labels: np.ndarray
  name: str

  def __len__(self) -> int:
    """Returns the number of examples."""
    return len(self.labels)

  def take(self, chosen: np.ndarray, name: str) -> 'Examples':
    """Returns the examples of these indices, in this order, under another name."""
    return Examples(self.logits[:, chosen], self.labels[chosen], name)


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
  """

  target: Target = DEFAULT_TARGET
  order: Order = 'normalised'
  combine: Combination | None = None
  scale_temperatures: bool = False
  precision: int | None = None
  reference: float | None = None


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


def split(examples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """Returns two random halves of the examples, as indices to calibrate on and to report on.

  Raises:
    ValueError: if there are fewer than two examples.
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
  activation_bits: int | tuple[int, ...] | None = None,
) -> list[OperatingPoint]:
  """Returns operating points for a target, one per combination that was compared, the best first.

  The best is found on the calibration examples. Those that meet the target come before those that
  do not; of these, under a limit on cost, the more accurate comes first, and under a limit on
  accuracy the cheaper. Under a limit on cost all combinations have the same thresholds.

  Args:
    calibration: examples that everything is chosen on.
    reported: examples that `reported` is measured on; none may be among the former.
    bits: the bit list.
    settings: the target, and how to get there.
    dataset: name of the data set, for the record.
    step: step of the checkpoint, for the record.
    activation_bits: activation bits of each precision, if they differ; see `curve.rerun_curve`.

  Raises:
    ValueError: for logits and labels that do not fit one another and the bits, and for an order,
      combination, key, precision or activation bits that are not allowed.
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
    _point(calibration, bits, settings, combine, temperatures, activation_bits).model_copy(
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
  """Returns whether each precision alone predicts the label: bool [precisions, examples]."""
  weights = combination.plain_weights('last', len(examples.logits))
  return exits.evaluate(examples.logits, examples.labels, weights).correct


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
    point.activation_bits,
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


def temperatures_of(calibration: Examples, fitted: bool) -> tuple[float, ...]:
  """Returns a temperature per precision: fitted to the calibration examples, or 1."""
  if not fitted:
    return (1.0,) * len(calibration.logits)
  return tuple(temperature.fit_temperature(each, calibration.labels) for each in calibration.logits)


def weights_of(
  combine: Combination, calibration: Examples, temperatures: Sequence[float]
) -> Weights:
  """Returns the weights of a combination, which for `weighted` are fitted to the examples.

  Raises:
    ValueError: for a name that is no combination.
  """
  if combine == 'weighted':
    return combination.fit_weights(calibration.logits, calibration.labels, temperatures)
  return combination.plain_weights(combine, len(calibration.logits))


def _point(
  calibration: Examples,
  bits: tuple[int, ...],
  settings: Settings,
  combine: Combination,
  temperatures: Sequence[float],
  activation_bits: int | tuple[int, ...] | None,
) -> OperatingPoint:
  """Returns the operating point of one combination, without its outcomes."""
  weights, target = weights_of(combine, calibration, temperatures), settings.target
  if target.kind == 'key':
    return operating_point.from_key(
      bits, settings.order, target.value, combine, weights, temperatures,
      precision=settings.precision, activation_bits=curve.of_each(activation_bits),
    )  # fmt: skip
  rerun = curve.rerun_curve(
    calibration.logits,
    calibration.labels,
    bits,
    settings.order,
    weights,
    temperatures,
    activation_bits,
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
