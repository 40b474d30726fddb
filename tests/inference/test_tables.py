import dataclasses
import io
import re
from typing import Any

import numpy as np

from dpoq_jax.inference import calibration, curve, tables
from dpoq_jax.inference.operating_point import Target
from dpoq_jax.runtime.console import Console
from tests.inference import problems

CALIBRATION, REPORTED = problems.examples(300, seed=1), problems.examples(500, seed=2)


BITS_TARGET = Target(kind='average_bits', value=3.5)


def choose(target: Target = BITS_TARGET, **settings: Any) -> list[Any]:
  return list(
    calibration.choose(
      CALIBRATION,
      REPORTED,
      problems.BITS,
      calibration.Settings(target, **settings),
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
  table = tables.comparison(compared, CALIBRATION, REPORTED)
  assert table.title == 'Target: average_bits = 3.5'
  assert [line[0] for line in cells(table)] == [point.combine for point in compared]
  best = compared[0]
  assert cells(table)[0] == (
    best.combine,
    f'{100 * best.expected.accuracy:.2f}',
    f'{best.expected.average_bits:.2f}',
    'yes',
    f'{100 * best.reported.accuracy:.2f}',
    f'{best.reported.average_bits:.2f}',
    'yes' if best.reported.average_bits <= 3.5 else 'no',
  )


def test_comparison_shows_what_the_target_limits_and_whether_that_holds_on_both_halves():
  highest = [(each.logits[-1].argmax(-1) == each.labels).mean() for each in (CALIBRATION, REPORTED)]
  seen = set()
  for value in (0.0, 0.01, 0.02, 0.05):
    compared = choose(Target(kind='max_accuracy_drop', value=value))
    table = tables.comparison(compared, CALIBRATION, REPORTED)
    assert headers(table)[3:5] == ['drop', 'met']
    assert str(table.title).endswith('; drops in points')
    for line, point in zip(cells(table), compared, strict=True):
      drops = [
        reference - outcome.accuracy
        for reference, outcome in zip(highest, (point.expected, point.reported), strict=True)
      ]
      assert [line[3], line[7]] == [f'{100 * drop:.2f}' for drop in drops]
      assert [line[4], line[8]] == ['yes' if drop <= value + 1e-9 else 'no' for drop in drops]
      assert line[4] == ('yes' if point.met else 'no')
      seen.add((line[4], line[8]))
  # What holds on the half that was chosen on need not hold on the other.
  assert {('yes', 'yes'), ('yes', 'no')} <= seen
  compared = choose(Target(kind='relative_cost', value=1.5))
  table = tables.comparison(compared, CALIBRATION, REPORTED)
  assert headers(table)[3] == headers(table)[7] == 'cost'
  assert cells(table)[0][7] == f'{compared[0].reported.relative_cost:.2f}'
  # A key given by hand limits nothing.
  by_hand = choose(Target(kind='key', value=0.5))
  assert headers(tables.comparison(by_hand, CALIBRATION, REPORTED))[1:] == [
    'chosen on: top-1 %', 'bits', 'reported: top-1 %', 'bits',
  ]  # fmt: skip


def test_equal_bits_does_not_show_the_same_twice():
  """An exit that predicts from the last precision alone is that precision."""
  best, *_ = choose(combine='last')
  accuracies: list[Any] = list(calibration.equal_bits(best, CALIBRATION, REPORTED, (2, 3)))
  assert accuracies[0].static == accuracies[0].ensemble
  table = tables.equal_bits(best, accuracies, REPORTED)
  assert headers(table) == ['bits', 'static', 'dynamic', 'its bits']
  assert [line[:2] for line in cells(table)] == [
    ('2', f'{100 * accuracies[0].static:.2f}'), ('3', ''),
  ]  # fmt: skip


def test_equal_bits_leaves_out_what_no_precision_has():
  best, *_ = choose(combine='mean')
  accuracies: list[Any] = list(calibration.equal_bits(best, CALIBRATION, REPORTED, (2, 3)))
  table = tables.equal_bits(best, accuracies, REPORTED)
  assert table.title == 'Top-1 % on the 500 reported examples, at equal average bits'
  assert headers(table)[2] == 'ensemble (mean)'
  two, three = cells(table)
  assert two == ('2', *[f'{100 * accuracies[0].static:.2f}'] * 3, '2.00')
  assert three[:3] == ('3', '', '')
  assert three[3] == f'{100 * accuracies[1].dynamic:.2f}'


def test_equal_bits_has_the_accuracy_on_the_whole_set_beside_that_on_a_half():
  whole = problems.examples(1000, seed=3)
  half = whole.take(np.arange(500), 'half')
  best, *_ = choose(combine='mean')
  accuracies = calibration.equal_bits(best, CALIBRATION, half, (2, 3, 8))
  table = tables.equal_bits(best, accuracies, whole)
  assert headers(table)[1:3] == ['static', 'static, all 1000']
  two, three, eight = cells(table)
  right = whole.logits.argmax(-1) == whole.labels
  assert (two[1], two[2]) == (f'{100 * right[0, :500].mean():.2f}', f'{100 * right[0].mean():.2f}')
  assert three[:4] == ('3', '', '', '')
  assert eight[2] == f'{100 * right[2].mean():.2f}' != eight[1]


def test_a_promise_is_shown_beside_what_is_hoped_for():
  settings = calibration.Settings(Target(kind='max_accuracy_drop', value=0.05))

  def chosen(confidence: float | None) -> Any:
    return calibration.choose(
      problems.examples(2000, seed=4), REPORTED, problems.BITS,
      dataclasses.replace(settings, confidence=confidence), dataset='made up', step=7,
    )[0]  # fmt: skip

  hoped, promised = chosen(None), chosen(0.8)
  table = tables.promise(hoped, promised, REPORTED)
  assert table.title == (
    f'Confidence 0.8: a drop of {100 * promised.promise.drop:.2f} points on 1600 calibration '
    f'examples, on new data at most {100 * promised.target.value:.4g}'
  )
  assert [line[0] for line in cells(table)] == ['hoped for', 'promised']
  for line, point in zip(cells(table), (hoped, promised), strict=True):
    assert line[-1] == f'{point.reported.relative_cost:.2f}'
  unmet = tables.promise(hoped, promised.model_copy(update={'met': False}), REPORTED)
  assert 'on new data perhaps' in str(unmet.title)
  assert cells(unmet)[1][0] == 'not promised'
  assert tables.best(promised, 1).title == f'Kept: {promised.combine}, as promised'
  # Of one that was not met nothing is promised, nor that it is written.
  unmet_point = promised.model_copy(update={'met': False})
  assert tables.best(unmet_point, 1).title == f'Nearest: {promised.combine}, not promised'


def test_no_head_is_broken_inside_a_word_in_a_terminal_of_80_columns():
  dropped = choose(Target(kind='max_accuracy_drop', value=0.05), confidence=0.8)
  # As wide as figures get.
  never = dropped[0].expected.model_copy(update={'average_bits': 16.0, 'accuracy': 1.0})
  unmet = dropped[0].model_copy(
    update={'met': False, 'combine': 'weighted', 'expected': never, 'reported': never}
  )
  for compared in (choose(), choose(Target(kind='max_accuracy_drop', value=0.05))):
    point = compared[0]
    equal = calibration.equal_bits(point, CALIBRATION, REPORTED, problems.BITS)
    for table in (
      tables.comparison(compared, CALIBRATION, REPORTED),
      tables.promise(point, dropped[0], REPORTED),
      tables.promise(point, unmet, REPORTED),
      tables.equal_bits(point, equal, problems.examples(600, seed=3)),
      tables.best(point.model_copy(update={'temperatures': {2: 0.5, 4: 1.5, 8: 2.0}}), 1),
    ):
      console = Console(width=80, file=io.StringIO())
      console.print(table)
      assert isinstance(console.file, io.StringIO)
      # All of it: the right border, too.
      assert '┓' in console.file.getvalue()
      shown = re.split(r'[^\w,:.%-]+', console.file.getvalue())
      for head in headers(table):
        assert set(re.sub('[()]', ' ', head).split()) <= set(shown), head


def test_best_has_a_line_per_precision():
  best, *others = choose()
  assert tables.best(best, 1 + len(others)).title == (
    f'Kept: {best.combine}, the best of those on the calibration examples'
  )
  (asked_for,) = choose(combine='mean')
  never = {2: curve.NEVER, 4: 0.5, 8: 0.0}
  table = tables.best(asked_for.model_copy(update={'thresholds': never}), 1)
  assert table.title == 'Kept: mean, as asked for'
  lines = cells(table)
  assert [line[0] for line in lines] == ['2', '4', '8']
  assert [line[1] for line in lines] == ['never', '0.5000', '0.0000']
  left = f'{100 * asked_for.reported.exits[8]:.1f}'
  # Temperatures that were not fitted are not shown.
  assert lines[2][2:] == (left, '1.00 1.00 1.00')
  fitted = asked_for.model_copy(update={'temperatures': {2: 1.0, 4: 1.5, 8: 2.0}})
  assert cells(tables.best(fitted, 1))[2][2:] == (left, '2.000', '1.00 1.00 1.00')
