import pathlib

import pytest

from dpoq_jax.reproduction import pages, results, tables
from dpoq_jax.reproduction.cells import SCALES, Scale
from dpoq_jax.reproduction.entries import Entry, entry
from tests.pages import ROOT

PART = 'a network, some data'


def entries(table: str = 'table1') -> list[Entry]:
  return [
    entry(table, PART, 'individual', '2 bits', [60.0, 62.0], 65.42),
    entry(table, PART, 'individual', 'fp32', [70.0], 68.74),
    entry(table, PART, 'joint', '2 bits', [58.5], 62.96),
    entry(table, PART, 'joint', '16 bits', [71.0], 69.21),
    entry(table, PART, 'ours alone', '2 bits', [50.0], None),
  ]


def test_entries_are_means_and_standard_deviations():
  first = entries()[0]
  assert (first.ours, first.seeds) == (61.0, 2)
  # Of a sample: the square root of ((-1)**2 + 1**2) / (2 - 1).
  assert first.spread == 1.4142
  assert first.difference == pytest.approx(61.0 - 65.42)
  assert entries()[1].spread is None
  assert entries()[4].difference is None


def test_page_shows_ours_the_papers_and_the_differences():
  page = pages.page(entries())
  assert '| individual | 61.00 ± 1.41 (2) | 70.00 |  | 65.50 |' in page
  assert '| individual | 65.42 | 68.74 |  | 67.08 |' in page
  assert '| joint | -4.46 |  | +1.79 |' in page
  # 16 bits stand beside the float network, as in the paper.
  assert '| joint | ≈ -2.50 (-2.46) |  | ≈ +1.00 (+0.47) |' in page
  # Two runs say next to nothing of how far apart they lie: 12.7 standard errors, 1.73 points each.
  assert '| ours alone | ≈ -11.00 |  |  |' in page
  assert page.count('| ours alone |') == 2


def test_page_is_the_same_made_of_the_record(tmp_path: pathlib.Path):
  # Their mean is 72.825 but for the last digit of a float, and so is written as 72.82 or as 72.83.
  values = [100 * 0.7279, 100 * 0.7286]
  page = results.write(tmp_path, 'table1', [entry('table1', PART, 'joint', '2 bits', values, None)])
  measured = page.read_text()
  results.write(tmp_path, 'table2', [])
  assert page.read_text() == measured


def test_means_are_over_the_same_precisions_in_every_row():
  given = [
    entry('table1', PART, 'individual', '2 bits', [60.0], 65.42),
    entry('table1', PART, 'individual', '4 bits', [62.0], 68.18),
    entry('table1', PART, 'individual', 'fp32', [90.0], 68.74),
    entry('table1', PART, 'joint', '2 bits', [59.0], 62.96),
    entry('table1', PART, 'joint', '4 bits', [61.0], 68.82),
  ]
  page = pages.page(given)
  assert '| individual | 60.00 | 62.00 | 90.00 | 61.00 |' in page
  assert '| individual | 65.42 | 68.18 | 68.74 | 66.80 |' in page
  assert '| joint | 59.00 | 61.00 |  | 60.00 |' in page


@pytest.mark.parametrize('scale', ['cpu', 'gpu/long'])
def test_committed_page_says_of_itself_what_the_command_writes(scale: str):
  folder = ROOT / 'results' / scale
  page, written = (folder / 'TABLE.md').read_text(), pages.page(results.read(folder))
  assert page.partition('\n## ')[0] == written.partition('\n## ')[0]


def test_tables_are_replaced_one_by_one(tmp_path: pathlib.Path):
  results.write(tmp_path, 'table2', entries('table2'))
  results.write(tmp_path, 'table1', entries('table1'))
  results.write(tmp_path, 'table2', entries('table2')[:2])
  kept = results.read(tmp_path)
  assert [each.table for each in kept] == ['table1'] * 5 + ['table2'] * 2
  assert kept[0].spread == pytest.approx(2**0.5, abs=1e-4)
  assert kept[4].paper is None
  page = (tmp_path / 'TABLE.md').read_text()
  assert page.index('## Table 1') < page.index('## Table 2')
  assert (tmp_path / 'table1.png').read_bytes().startswith(b'\x89PNG')
  # The same numbers give the same files.
  again = tmp_path / 'again'
  results.write(again, 'table2', kept[5:])
  results.write(again, 'table1', kept[:5])
  assert (again / 'TABLE.csv').read_bytes() == (tmp_path / 'TABLE.csv').read_bytes()
  assert (again / 'TABLE.md').read_text() == page


TABLES_AT_SCALES = [
  pytest.param(table, scale, id=f'{table}-{scale.name}')
  for table in tables.TABLES
  for scale in SCALES.values()
  if table == 'recipe' or scale.name != 'long'
]


@pytest.mark.parametrize(('table', 'scale'), TABLES_AT_SCALES)
def test_every_run_of_every_table_is_a_config(table: str, scale: Scale):
  cells = tables.cells(table, scale)
  names = {}
  for cell in cells:
    # Configs are equal only if runs are, and so are names.
    config = cell.run.expected_config()
    assert names.setdefault(cell.run.name, config) == config
    assert config.seed == cell.run.seed
    bits = config.quantization.bits
    if cell.read[0] == 'precisions':
      assert int(cell.read[1]) in bits
    else:
      assert int(cell.read[1]) in config.quantization.truncate_to
  assert len(names) == len({cell.run for cell in cells})


def test_table_1_is_the_papers():
  cells = tables.cells('table1', SCALES['paper'])
  of_paper = {(c.system, c.bits): c.paper for c in cells if c.paper is not None}
  assert of_paper['individual', 32] == 68.74
  assert of_paper['scaled gradients + PSBN', 16] == 70.60
  # The mean column of the paper, as a check of the copying.
  for system, mean in [
    ('individual', 67.74), ('joint', 67.53), ('joint + PSBN', 67.90), ('separate', 66.85),
    ('separate + PSBN', 67.69), ('scaled gradients', 67.47), ('scaled gradients + PSBN', 68.80),
  ]:  # fmt: skip
    values = [value for (name, _), value in of_paper.items() if name == system]
    assert len(values) == 4
    assert sum(values) / 4 == pytest.approx(mean, abs=0.006)


def test_seeds_are_as_many_as_promised_and_one_run_serves_several_rows():
  cells = tables.cells('table1', SCALES['cpu'])
  seeds = {}
  for cell in cells:
    seeds.setdefault(cell.system, set()).add(cell.run.seed)
  two = {'individual', 'scaled gradients + PSBN'}
  assert two <= {system for system, s in seeds.items() if len(s) == 2}
  assert all(len(s) == 1 for system, s in seeds.items() if system.startswith(('joint', 'shared')))
  # What was trained at 8 bits is what is truncated.
  individual = {c.run for c in cells if (c.system, c.bits) == ('individual', 8)}
  assert individual == {c.run for c in cells if c.system.startswith('truncated')}


def test_unknown_tables_are_refused():
  with pytest.raises(ValueError, match='table4: there are table1, table2, table3'):
    tables.cells('table4', SCALES['cpu'])
  with pytest.raises(ValueError, match='table1 is not made at scale long: give smoke, cpu, paper'):
    tables.cells('table1', SCALES['long'])


@pytest.mark.parametrize(
  'damage',
  [
    lambda text: text.rstrip()[:-30],
    lambda text: text.replace('ours', 'mine', 1),
    lambda text: text + '<<<<<<< HEAD\n',
  ],
)
def test_a_damaged_record_is_named(damage, tmp_path: pathlib.Path):
  results.write(tmp_path, 'table1', entries())
  record = tmp_path / 'TABLE.csv'
  record.write_text(damage(record.read_text()))
  with pytest.raises(ValueError, match=r'TABLE\.csv is no record of tables'):
    results.read(tmp_path)
