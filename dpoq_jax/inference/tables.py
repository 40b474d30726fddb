"""Builds tables of operating points for a terminal: what was compared, chosen and gained."""

from collections.abc import Iterable, Sequence

import rich.table

from dpoq_jax.inference.calibration import EqualBits
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
    figures: list[str] = []
    for outcome in (point.expected, point.reported):
      assert outcome is not None
      figures += [f'{100 * outcome.accuracy:.2f}', f'{outcome.average_bits:.2f}']
    table.add_row(point.combine, *figures, 'yes' if point.met else 'no')
  return table


def equal_bits(point: OperatingPoint, accuracies: Iterable[EqualBits]) -> rich.table.Table:
  """Returns a table of static, ensemble and dynamic accuracy at equal average bits.

  Args:
    point: the operating point whose combination was used.
    accuracies: as `calibration.equal_bits` yields them.
  """
  table = _table(
    'Top-1 % on the reported examples, at equal average bits',
    ('bits', 'static', f'ensemble ({point.combine})', 'dynamic', 'its bits'),
  )
  for each in accuracies:
    shares = (each.static, each.ensemble, each.dynamic)
    figures = ['' if share is None else f'{100 * share:.2f}' for share in shares]
    table.add_row(f'{each.bits:g}', *figures, f'{each.dynamic_bits:.2f}')
  return table


def best(compared: Sequence[OperatingPoint]) -> rich.table.Table:
  """Returns a table of the best of the operating points compared: thresholds, exits and weights.

  Args:
    compared: as `calibration.choose` returns them.
  """
  point = compared[0]
  assert point.reported is not None
  why = 'the best of those on the calibration examples' if len(compared) > 1 else 'as asked for'
  table = _table(
    f'Kept: {point.combine}, {why}',
    ('bits', 'leave from confidence', 'share that leaves %', 'temperature', 'weights'),
  )
  for b in point.bits:
    threshold = point.thresholds[b]
    table.add_row(
      str(b),
      'never' if threshold > 1 else f'{threshold:.4f}',
      f'{100 * point.reported.exits[b]:.1f}',
      f'{point.temperatures[b]:.3f}',
      ' '.join(f'{weight:.2f}' for weight in point.weights[b]),
    )
  return table


def _table(title: str, columns: Iterable[str]) -> rich.table.Table:
  table = rich.table.Table(title=title)
  for column in columns:
    table.add_column(column, justify='right')
  return table
