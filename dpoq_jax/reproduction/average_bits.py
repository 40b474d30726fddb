"""Measures accuracy over average bits, static and dynamic: Figure 5, and the recipe's beside it.

Everything is chosen on one half of the test set, the calibration examples, and reported on the
other.
"""

from collections.abc import Iterator, Sequence
import dataclasses

import numpy as np

from dpoq_jax.inference import calibration as calibration_lib
from dpoq_jax.inference import combination
from dpoq_jax.inference.calibration import Examples, Settings
from dpoq_jax.inference.operating_point import OperatingPoint, Target
from dpoq_jax.reproduction.entries import Entry, entry

FIGURE = 'figure5'
NETWORKS = ('onion, DoReFa (the paper)', 'onion, the recipe')
"""Networks of the figure, by their rows in the table of the recipe."""

DROPS = (0.001, 0.005)
"""Accuracy that operating points may lose of the highest, as fractions: 0.1 and 0.5 points."""

_TOP1, _AVERAGE_BITS = 'top-1 (%)', 'average bits'
# Limits on the average bits for which the curve is drawn, beside the precisions.
_DRAWN = 33


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
  """Holds a network of the figure by what its precisions say of the examples.

  Attributes:
    name: name of the network, one of `NETWORKS`.
    bits: bit list.
    calibration: examples that everything is chosen on.
    reported: examples that accuracies are measured on.
    dataset: name of the data set.
    step: step of the checkpoint.
    bitops: BitOPs of one image at each precision, laterals included. Points are not chosen by them.
  """

  name: str
  bits: tuple[int, ...]
  calibration: Examples
  reported: Examples
  dataset: str
  step: int
  bitops: tuple[int, ...] = ()

  def choose(self, settings: Settings) -> OperatingPoint:
    """Returns the best operating point for a target; see `calibration.choose`."""
    return calibration_lib.choose(
      self.calibration, self.reported, self.bits, settings, dataset=self.dataset, step=self.step
    )[0]

  def static(self) -> dict[int, float]:
    """Returns the accuracy of each precision alone, by its bits."""
    accuracies = calibration_lib.alone(self.reported).mean(axis=1)
    return {b: float(accuracy) for b, accuracy in zip(self.bits, accuracies, strict=True)}

  def curve(self, point: OperatingPoint) -> list[tuple[float, float]]:
    """Returns average bits and accuracy along the dynamic curve, by increasing bits.

    Args:
      point: operating point whose combination is used.
    """
    between = np.geomspace(self.bits[0], self.bits[-1], _DRAWN).tolist()
    targets = sorted({*between, *map(float, self.bits)})
    equal = calibration_lib.equal_bits(point, self.calibration, self.reported, targets)
    return sorted((each.dynamic_bits, each.dynamic) for each in equal)


def near_highest(network: Network) -> dict[str, OperatingPoint]:
  """Returns the operating point of the highest accuracy, and the cheapest that are near it.

  The highest is what is most accurate of the rerun curves of all combinations, at any cost: among
  their states is the highest precision alone, too. It is found on the calibration examples, and so
  is whether a point is within 0.1 or 0.5 points of it. Their numbers are those of the reported
  examples.

  Args:
    network: network of the figure.
  """
  highest = network.choose(Settings(Target(kind='average_bits', value=network.bits[-1])))
  assert highest.expected is not None
  reference = highest.expected.accuracy
  near = {
    f'within {100 * drop:g}': network.choose(
      Settings(Target(kind='max_accuracy_drop', value=drop), reference=reference)
    )
    for drop in DROPS
  }
  return {'highest': highest, **near}


def entries(
  part: str, networks: Sequence[Network], points: Sequence[dict[str, OperatingPoint]]
) -> Iterator[Entry]:
  """Yields the numbers of the figure: curves of each network, then operating points of all.

  Args:
    part: name of architecture and data.
    networks: networks that there are.
    points: operating points of each, as `near_highest` returns them.
  """
  for network in networks:
    for b, accuracy in network.static().items():
      yield _entry(f'{part}: {network.name}', 'static', f'{b} bits', 100 * accuracy)
    for combine in combination.COMBINATIONS:
      row = f'dynamic, {combine}'
      for b in network.bits:
        settings = Settings(Target(kind='average_bits', value=b), combine=combine)
        accuracy, bits = _reported(network.choose(settings))
        yield _entry(f'{part}: {network.name}', row, f'{b} bits', 100 * accuracy)
        yield _entry(f'{part}: {network.name}', f'{row}: its bits', f'{b} bits', bits)
  for network, near in zip(networks, points, strict=True):
    rows = {f'static, {b} bits': (a, float(b)) for b, a in network.static().items()}
    rows |= {f'dynamic, {name}': _reported(point) for name, point in near.items()}
    for row, (accuracy, bits) in rows.items():
      system = f'{network.name}: {row}'
      yield _entry(f'{part}: operating points', system, _TOP1, 100 * accuracy)
      yield _entry(f'{part}: operating points', system, _AVERAGE_BITS, bits)


def missing(names: Sequence[str]) -> list[str]:
  """Returns the networks of the figure that are not among these."""
  return [name for name in NETWORKS if name not in names]


def note(measured: Sequence[Entry]) -> str:
  """Returns the text above the tables of the figure, which says what is missing.

  Args:
    measured: numbers of the figure.
  """
  found = {each.system.partition(': ')[0] for each in measured if each.at == _AVERAGE_BITS}
  absent = missing(sorted(found))
  return '\n'.join([_NOTE, *(['', f'Missing: {"; ".join(absent)}.'] if absent else [])])


_NOTE = """\
Thresholds, and what exits predict from, are chosen on one half of the test set; all numbers, static
ones too, are those of the other half. The columns of dynamic inference are limits on average bits;
the rows below say how many it took.
`highest` is the operating point that is most accurate on the first half, at any cost; `within 0.1`
has the least average bits of those that are there at most 0.1 points less accurate, and so has
`within 0.5`. On the other half they may differ from it by more, or be the better ones."""


def _reported(point: OperatingPoint) -> tuple[float, float]:
  """Returns accuracy and average bits on the reported examples."""
  assert point.reported is not None
  return point.reported.accuracy, point.reported.average_bits


def _entry(part: str, system: str, at: str, value: float) -> Entry:
  """Returns an entry of the figure, for which the paper has no numbers."""
  return entry(FIGURE, part, system, at, [value], None)
