"""Builds tables of operating points for a terminal: what was compared, chosen and gained."""

from collections.abc import Iterable, Sequence

import rich.table

from dpoq_jax.inference.calibration import EqualBits, meets, reached
from dpoq_jax.inference.examples import Examples, alone
from dpoq_jax.inference.operating_point import OperatingPoint
from dpoq_jax.inference.records import Outcome, Target

# The column of what a target limits, where no other column shows it.
_LIMITED = {'max_accuracy_drop': 'drop', 'relative_cost': 'cost'}


def comparison(
  compared: Sequence[OperatingPoint], calibration: Examples, reported: Examples
) -> rich.table.Table:
  """Returns a table of the combinations compared for a target, the best first.

  Args:
    compared: as `calibration.choose` returns them.
    calibration: the examples that they were chosen on.
    reported: the examples that they are reported on.
  """
  target = compared[0].target
  assert target is not None
  limited = [_LIMITED[target.kind]] if target.kind in _LIMITED else []
  columns = ['top-1 %', 'bits', *limited, *(['met'] if target.kind != 'key' else [])]
  units = '; drops in points' if target.kind == 'max_accuracy_drop' else ''
  table = _table(
    f'Target: {target.kind} = {target.value:g}{units}',
    [
      'combine',
      *(f'chosen on: {columns[0]}', *columns[1:]),
      *(f'reported: {columns[0]}', *columns[1:]),
    ],
  )
  for point in compared:
    cells = [point.combine]
    for outcome, examples in ((point.expected, calibration), (point.reported, reported)):
      assert outcome is not None
      reference = float(alone(examples)[-1].mean())
      cells += _figures(outcome)
      if limited:
        value = reached(target, outcome, reference)
        assert value is not None
        cells.append(_limited(target, value))
      if target.kind != 'key':
        cells.append('yes' if meets(target, outcome, reference) else 'no')
    table.add_row(*cells)
  return table


def promise(
  hoped: OperatingPoint, promised: OperatingPoint, reported: Examples
) -> rich.table.Table:
  """Returns a table of what is hoped for and what is promised, for the same target.

  Args:
    hoped: the point that meets the target on the calibration examples.
    promised: the point of which that is promised of new data.
    reported: the examples that both are reported on.
  """
  assert promised.promise is not None
  target, found = promised.target, promised.promise
  assert target is not None
  # The bound of a point that these examples chose among many is of that one alone.
  new = f'at most {100 * target.value:.4g}' if promised.met else f'perhaps {100 * found.bound:.2f}'
  table = _table(
    f'Confidence {found.confidence:g}: a drop of {100 * found.drop:.2f} points on '
    f'{found.bounded_on} calibration examples, on new data {new}',
    (
      *('', 'combine', 'chosen on: top-1 %', 'bits'),
      *('reported: top-1 %', 'bits', 'drop', 'cost'),
    ),
  )
  reference = float(alone(reported)[-1].mean())
  outcome = 'promised' if promised.met else 'not promised'
  for name, point in (('hoped for', hoped), (outcome, promised)):
    assert point.expected is not None
    assert point.reported is not None
    drop = reached(target, point.reported, reference)
    assert drop is not None
    table.add_row(
      name,
      point.combine,
      *_figures(point.expected),
      *_figures(point.reported),
      _limited(target, drop),
      f'{point.reported.relative_cost:.2f}',
    )
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
  # What the last precision says alone is the column before.
  ensemble = [] if point.combine == 'last' else [f'ensemble ({point.combine})']
  columns = ['bits', 'static', *ensemble, 'dynamic', 'its bits']
  halved = point.reported.examples < len(whole)
  if halved:
    columns.insert(2, f'static, all {len(whole)}')
  static = dict(zip(point.bits, alone(whole).mean(axis=1), strict=True))
  table = _table(
    f'Top-1 % on the {point.reported.examples} reported examples, at equal average bits', columns
  )
  for each in accuracies:
    shares = [each.static, *([each.ensemble] if ensemble else []), each.dynamic]
    if halved:
      shares.insert(1, static.get(int(each.bits)) if each.static is not None else None)
    figures = ['' if share is None else f'{100 * share:.2f}' for share in shares]
    table.add_row(f'{each.bits:g}', *figures, f'{each.dynamic_bits:.2f}')
  return table


def best(point: OperatingPoint, compared: int) -> rich.table.Table:
  """Returns a table of the operating point that was chosen: thresholds, exits and weights.

  Args:
    point: the operating point.
    compared: number of points that it is the best of.
  """
  assert point.reported is not None
  why = 'the best of those on the calibration examples' if compared > 1 else 'as asked for'
  if point.promise is not None:
    why = 'as promised' if point.met else 'not promised'
  # One that does not meet its target need not be written.
  kept = 'Kept' if point.met else 'Nearest'
  scaled = ('temperature',) if point.scaled else ()
  table = _table(
    f'{kept}: {point.combine}, {why}',
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


def _figures(outcome: Outcome) -> list[str]:
  """Returns the accuracy and the bits of an outcome."""
  return [f'{100 * outcome.accuracy:.2f}', f'{outcome.average_bits:.2f}']


def _limited(target: Target, value: float) -> str:
  """Writes what a target limits: a drop in points, in which accuracies are."""
  return f'{100 * value:.2f}' if target.kind == 'max_accuracy_drop' else f'{value:.2f}'


def _table(title: str, columns: Iterable[str]) -> rich.table.Table:
  table = rich.table.Table(title=title)
  for column in columns:
    # Where a terminal is narrow heads are wrapped, but not inside a word.
    table.add_column(column, justify='right', min_width=max(map(len, column.split()), default=0))
  return table
