from typing import Any

from dpoq_jax.inference import calibration, curve, tables
from dpoq_jax.inference.operating_point import Target
from tests.inference import problems

CALIBRATION, REPORTED = problems.examples(300, seed=1), problems.examples(500, seed=2)


def choose(**settings: Any) -> list[Any]:
  return list(
    calibration.choose(
      CALIBRATION,
      REPORTED,
      problems.BITS,
      calibration.Settings(Target(kind='average_bits', value=3.5), **settings),
      dataset='made up',
      step=7,
    )
  )


def cells(table: Any) -> list[tuple[str, ...]]:
  return list(zip(*(column.cells for column in table.columns), strict=True))


def headers(table: Any) -> list[str]:
  return [column.header for column in table.columns]


def test_comparison_has_a_line_per_combination():
  compared = choose()
  table = tables.comparison(compared)
  assert table.title == 'Target: average_bits = 3.5'
  assert [line[0] for line in cells(table)] == [point.combine for point in compared]
  best = compared[0]
  assert cells(table)[0] == (
    best.combine,
    f'{100 * best.expected.accuracy:.2f}',
    f'{best.expected.average_bits:.2f}',
    f'{100 * best.reported.accuracy:.2f}',
    f'{best.reported.average_bits:.2f}',
    'yes',
  )


def test_equal_bits_leaves_out_what_no_precision_has():
  best, *_ = choose(combine='mean')
  accuracies: list[Any] = list(calibration.equal_bits(best, CALIBRATION, REPORTED, (2, 3)))
  table = tables.equal_bits(best, accuracies)
  assert table.title == 'Top-1 % on the reported examples, at equal average bits'
  assert headers(table)[2] == 'ensemble (mean)'
  two, three = cells(table)
  assert two == ('2', *[f'{100 * accuracies[0].static:.2f}'] * 3, '2.00')
  assert three[:3] == ('3', '', '')
  assert three[3] == f'{100 * accuracies[1].dynamic:.2f}'


def test_best_has_a_line_per_precision():
  compared = choose()
  assert tables.best(compared).title == (
    f'Kept: {compared[0].combine}, the best of those on the calibration examples'
  )
  (asked_for,) = choose(combine='mean')
  never = {2: curve.NEVER, 4: 0.5, 8: 0.0}
  table = tables.best([asked_for.model_copy(update={'thresholds': never})])
  assert table.title == 'Kept: mean, as asked for'
  lines = cells(table)
  assert [line[0] for line in lines] == ['2', '4', '8']
  assert [line[1] for line in lines] == ['never', '0.5000', '0.0000']
  assert lines[2][2:] == (f'{100 * asked_for.reported.exits[8]:.1f}', '1.000', '1.00 1.00 1.00')
