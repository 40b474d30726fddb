"""Builds tables of operating points for a terminal: what was compared, chosen and gained."""

from collections.abc import Iterable, Sequence

import rich.table

from dpoq_jax.inference.calibration import EqualBits
from dpoq_jax.inference.examples import Examples, alone
from dpoq_jax.inference.operating_point import OperatingPoint


def comparison(compared: Sequence[OperatingPoint]) -> rich.table.Table:
  """Returns a table of the combinations compared for a target, the best first.

  Args:
    compared: as `calibration.choose` returns them.
  """
  target = compared[0].target
  assert target is not None
  table = _table(
    f'Target: {target.kind} = {target.value:g}',
    ('combination', 'chosen on: top-1 %', 'bits', 'reported: top-1 %', 'bits', 'met'),
  )
  for point in compared:
    table.add_row(point.combine, *_figures(point), 'yes' if point.met else 'no')
  return table


def promise(hoped: OperatingPoint, promised: OperatingPoint) -> rich.table.Table:
  """Returns a table of what is hoped for and what is promised, for the same target.

  Args:
    hoped: the point that meets the target on the calibration examples.
    promised: the point of which that is promised of new data.
  """
  assert promised.promise is not None
  target, found = promised.target, promised.promise
  assert target is not None
  kept = 'at most' if promised.met else 'perhaps'
  table = _table(
    f'Confidence {found.confidence:g}: a drop of {100 * found.drop:.2f} points on '
    f'{found.bounded_on} calibration examples, on new data {kept} {100 * found.bound:.2f}',
    ('', 'combination', 'chosen on: top-1 %', 'bits', 'reported: top-1 %', 'bits', 'relative cost'),
  )
  outcome = 'promised' if promised.met else 'not promised'
  for name, point in (('hoped for', hoped), (outcome, promised)):
    assert point.expected is not None
    assert point.reported is not None
    cost = f'{point.reported.relative_cost:.2f}'
    table.add_row(name, point.combine, *_figures(point), cost)
  return table


def equal_bits(
  point: OperatingPoint, accuracies: Iterable[EqualBits], whole: Examples
) -> rich.table.Table:
  """Returns a table of static, ensemble and dynamic accuracy at equal average bits.

  Args:
    point: the operating point whose combination was used.
    accuracies: as `calibration.equal_bits` yields them.
    whole: all test examples, for the accuracy of each precision beside that on those reported.
  """
  assert point.reported is not None
  columns = ['bits', 'static', f'ensemble ({point.combine})', 'dynamic', 'its bits']
  halved = point.reported.examples < len(whole)
  if halved:
    columns.insert(2, f'static, all {len(whole)}')
  static = dict(zip(point.bits, alone(whole).mean(axis=1), strict=True))
  table = _table(
    f'Top-1 % on the {point.reported.examples} reported examples, at equal average bits', columns
  )
  for each in accuracies:
    shares = [each.static, each.ensemble, each.dynamic]
    if halved:
      shares.insert(1, static.get(int(each.bits)) if each.static is not None else None)
    figures = ['' if share is None else f'{100 * share:.2f}' for share in shares]
    table.add_row(f'{each.bits:g}', *figures, f'{each.dynamic_bits:.2f}')
  return table


def best(point: OperatingPoint, compared: int) -> rich.table.Table:
  """Returns a table of the operating point that is kept: thresholds, exits and weights.

  Args:
    point: the operating point.
    compared: number of points that it is the best of.
  """
  assert point.reported is not None
  why = 'the best of those on the calibration examples' if compared > 1 else 'as asked for'
  if point.promise is not None:
    why = 'as promised' if point.met else 'not promised'
  scaled = ('temperature',) if point.scaled else ()
  table = _table(
    f'Kept: {point.combine}, {why}',
    ('bits', 'leave from confidence', 'share that leaves %', *scaled, 'weights'),
  )
  for b in point.bits:
    threshold = point.thresholds[b]
    table.add_row(
      str(b),
      'never' if threshold > 1 else f'{threshold:.4f}',
      f'{100 * point.reported.exits[b]:.1f}',
      *(f'{point.temperatures[b]:.3f}' for _ in scaled),
      ' '.join(f'{weight:.2f}' for weight in point.weights[b]),
    )
  return table


def _figures(point: OperatingPoint) -> list[str]:
  """Returns accuracy and bits of a point on the examples chosen on and on those reported."""
  figures: list[str] = []
  for outcome in (point.expected, point.reported):
    assert outcome is not None
    figures += [f'{100 * outcome.accuracy:.2f}', f'{outcome.average_bits:.2f}']
  return figures


def _table(title: str, columns: Iterable[str]) -> rich.table.Table:
  table = rich.table.Table(title=title)
  for column in columns:
    table.add_column(column, justify='right')
  return table
