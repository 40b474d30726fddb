"""Which runs the ablation and the recipe have, and the pages that are made of them."""

from collections.abc import Mapping
import json
import pathlib

import pytest

from dpoq_jax import config as config_lib
from dpoq_jax.config import recipe
from dpoq_jax.reproduction import ablation, cells, results, tables
from dpoq_jax.reproduction.cells import SCALES
from dpoq_jax.reproduction.runs import Run

BASE = 'onion, standardised'
CPU = SCALES['cpu']


def of(table: str, scale: str) -> dict[str, list[Run]]:
  """The runs of each row, in the order of rows."""
  runs: dict[str, list[Run]] = {}
  for cell in tables.cells(table, SCALES[scale]):
    runs.setdefault(cell.system, []).append(cell.run)
  return runs


def keep(stored: pathlib.Path, run: Run, top1: Mapping[int, float]) -> None:
  """Keeps a result of a run."""
  folder = stored / run.name
  folder.mkdir(parents=True)
  (folder / 'config.json').write_text(run.expected_config().model_dump_json())
  precisions = {bits: {'top1': value} for bits, value in top1.items()}
  (folder / 'summary.json').write_text(json.dumps({'precisions': precisions}))


@pytest.mark.parametrize('scale', ['smoke', 'cpu', 'paper'])
def test_rows_of_the_ablation_differ(scale: str):
  rows = of('ablation', scale)
  runs = {label: frozenset(runs) for label, runs in rows.items()}
  assert len(set(runs.values())) == len(runs)
  compared = ablation.comparison('ablation', SCALES[scale], pathlib.Path('none'))
  assert {other for others in compared.over.values() for other in others} <= set(rows)
  assert compared.reference == BASE
  changed = [label for label in rows if label.startswith('the recipe, ')]
  assert {compared.over[label] for label in changed} <= {('onion, the recipe',)}


@pytest.mark.parametrize(
  ('label', 'fields'),
  [
    ('companion of ring 1', {'objective.companion_bits': '() -> (8,)'}),
    ('latents without decay', {'optimizer.latent_weight_decay': 'None -> 0.0'}),
    ('peak learning rate doubled', {'optimizer.learning_rate': '0.2 -> 0.4'}),
    (
      'highest precision teaches, 0.5',
      {'objective.distillation': '0.0 -> 0.5', 'objective.teacher_start': '0.0 -> 2.0'},
    ),
  ],
)
def test_a_lever_changes_one_thing(label: str, fields: dict[str, str]):
  rows = of('ablation', 'cpu')
  base, lever = (rows[name][0].expected_config() for name in (BASE, label))
  assert base.quantization.weight_quantizer == 'standardised'
  found = config_lib.differences(base, lever, apart=set())
  assert found == [f'{name}: {change}' for name, change in fields.items()]


def test_runs_of_the_paper_s_table_are_runs_of_the_ablation():
  of_paper = {cell.run for cell in tables.cells('table1', CPU) if cell.run.seed == 0}
  rows = of('ablation', 'cpu')
  for label in (
    'onion, DoReFa (the paper)',
    'shared kernels, DoReFa',
    'individual networks, DoReFa',
  ):
    assert {run for run in rows[label] if run.seed == 0} <= of_paper
    assert {run.seed for run in rows[label]} == {0, 1, 2}


def test_longer_runs_are_of_two_networks_and_the_recipe_is_the_same_in_all():
  cells = tables.cells('recipe', SCALES['long'])
  parts = {(cell.part, cell.run.expected_config().model.depth) for cell in cells}
  assert parts == {
    ('ResNet-8, CIFAR-10, 30 epochs, activations of 8 bits', 8),
    ('ResNet-20, CIFAR-10, 20 epochs, activations of 8 bits', 20),
  }
  for scale in SCALES:
    rows = of('recipe', scale)
    onion, best = (rows[name][0].expected_config() for name in list(rows)[:2])
    set_by = {
      **recipe.settings(onion),
      'quantization.weight_quantizer': best.quantization.weight_quantizer,
    }
    for name, value in set_by.items():
      section, field = name.split('.')
      assert getattr(getattr(best, section), field) == value
    changed = {line.split(':')[0] for line in config_lib.differences(onion, best, apart=set())}
    assert changed <= set(set_by)
    tuned = rows["individual networks, the recipe's quantizer and rate"][0].expected_config()
    assert tuned.optimizer.learning_rate == best.optimizer.learning_rate
    assert tuned.objective.companion_bits == ()


def test_the_page_has_what_there_is_and_names_what_is_missing(tmp_path: pathlib.Path):
  rows = of('ablation', 'cpu')
  accuracies = {BASE: (0.70, 0.72, 0.74), 'companion of ring 1': (0.73, 0.72, 0.74)}
  stored = tmp_path / 'runs'
  for label, values in accuracies.items():
    keep(stored, rows[label][0], dict(zip((2, 4, 8), values, strict=True)))
  second = next(run for run in rows[BASE] if run.seed == 1)
  keep(stored, second, {2: 0.72, 4: 0.74, 8: 0.76})
  individual = rows['individual networks, standardised'][0]
  keep(stored, individual, {2: 0.71})

  entries = cells.measured(tables.cells('ablation', CPU), stored, mean=True)
  page = ablation.comparison('ablation', CPU, stored)
  written = results.write_comparison(tmp_path, 'ablation', entries, page).read_text()
  assert (
    f'| {BASE} | 71.00 ± 1.41 (2) | 73.00 ± 1.41 (2) | 75.00 ± 1.41 (2) | 73.00 ± 1.41 (2) '
    '|  |  |  |  |'
  ) in written
  assert (
    '| companion of ring 1 | 73.00 | 72.00 | 74.00 | 73.00 | ≈ +2.00 | ≈ -1.00 | ≈ -1.00 |'
  ) in written
  # Without its other precisions, a row has no mean.
  assert '| individual networks, standardised | 71.00 |  |  |  |  |  |  |  |' in written
  missing = written[written.index('Missing:') :]
  assert f'- {BASE}: 2 of 3 runs done' in missing
  assert '- individual networks, standardised: 1 of 9 runs done' in missing
  assert '- onion, the recipe: 0 of 3 runs done' in missing
  assert '| onion, the recipe |' not in written
  assert 'reproduce ablation --scale=cpu' in written
  assert 'the first one' in written
  assert 'last epoch' in written
  assert (tmp_path / 'ablation.png').read_bytes().startswith(b'\x89PNG')
  lines = (tmp_path / 'ABLATION.csv').read_text().splitlines()
  assert len(lines) == 1 + 4 + 4 + 1
  assert not (tmp_path / 'TABLE.md').exists()


def test_the_page_of_the_recipe_has_what_onions_are_over_all_others(tmp_path: pathlib.Path):
  scale, stored = SCALES['long'], tmp_path / 'runs'
  rows = of('recipe', 'long')
  keep(stored, rows['onion, the recipe'][0], {2: 0.75, 4: 0.76, 8: 0.80})
  keep(stored, rows['shared kernels, DoReFa'][0], {2: 0.73, 4: 0.77, 8: 0.78})
  for run in rows['individual networks, DoReFa']:
    bits = run.expected_config().quantization.bits
    if run.seed == 0 and run.expected_config().epochs == 30:
      keep(stored, run, dict.fromkeys(bits, 0.74))
  entries = cells.measured(tables.cells('recipe', scale), stored, mean=True)
  page = ablation.comparison('recipe', scale, stored)
  written = results.write_comparison(tmp_path, 'recipe', entries, page).read_text()
  assert '| individual networks, DoReFa | 74.00 | 74.00 | 74.00 | 74.00 | 74.00 |' in written
  assert ('| onion, the recipe - shared kernels, DoReFa | ≈ +2.00 | ≈ -1.00 | ≈ +2.00 |') in written
  assert '| onion, the recipe - individual networks, DoReFa | ≈ +1.00 | ≈ +2.00 |' in written
  # Nothing of the second network is there.
  second = written[written.index('## ResNet-20') :]
  assert '|' not in second
  assert second.count(' of ') >= 6
  assert (tmp_path / 'recipe.png').is_file()


def test_a_page_of_nothing_is_a_list_of_what_is_missing(tmp_path: pathlib.Path):
  page = ablation.comparison('ablation', CPU, tmp_path)
  written = results.write_comparison(tmp_path, 'ablation', [], page).read_text()
  assert '|' not in written
  assert 'png' not in written
  assert written.count(': 0 of ') == len(of('ablation', 'cpu'))


@pytest.mark.parametrize('scale', ['smoke', 'cpu', 'paper'])
def test_runs_of_the_noise_differ_in_seed_or_in_rounding_alone(scale: str):
  for label, row in of('noise', scale).items():
    configs = [run.expected_config() for run in dict.fromkeys(row)]
    networks = {config.data.name: [] for config in configs}
    for config in configs:
      networks[config.data.name].append(config)
    for first, *others in networks.values():
      assert (first.seed, first.rounding_seed) == (0, 0)
      (field,) = ['rounding_seed'] if label.endswith('roundings') else ['seed']
      for number, other in enumerate(others, start=1):
        found = config_lib.differences(first, other, apart=set())
        assert found == [f'{field}: 0 -> {number}']


def test_what_is_within_the_noise_is_said_to_be(tmp_path: pathlib.Path):
  rows = of('ablation', 'cpu')
  stored = tmp_path / 'runs'
  for number, run in enumerate(dict.fromkeys(rows[BASE])):
    keep(stored, run, dict.fromkeys((2, 4, 8), 0.70 + 0.01 * number))
  keep(stored, rows['companion of ring 1'][0], {2: 0.7382, 4: 0.7383, 8: 0.6817})
  entries = cells.measured(tables.cells('ablation', CPU), stored, mean=True)
  page = ablation.comparison('ablation', CPU, stored)
  written = results.write_comparison(tmp_path, 'ablation', entries, page).read_text()
  # A deviation of 1 point, of 6 degrees of freedom, for which Student's t is 2.447: times that of
  # one run less three, sqrt(1 + 1/3), it is 2.826.
  assert '| ≈ +2.82 | +2.83 | -2.83 | ≈ +0.94 |' in written
  one_line = ' '.join(written.splitlines())
  assert 'several, is 1.00 (6 degrees of freedom); of the mean, 1.00 (2 degrees' in one_line


def test_means_have_a_noise_of_their_own(tmp_path: pathlib.Path):
  rows, stored = of('ablation', 'cpu'), tmp_path / 'runs'
  # What one precision of a run has more, the next has less.
  for number, run in enumerate(dict.fromkeys(rows[BASE])):
    keep(stored, run, {2: 0.70 + 0.01 * number, 4: 0.75, 8: 0.80 - 0.009 * number})
  keep(stored, rows['companion of ring 1'][0], {2: 0.72, 4: 0.76, 8: 0.80})
  entries = cells.measured(tables.cells('ablation', CPU), stored, mean=True)
  page = ablation.comparison('ablation', CPU, stored)
  written = results.write_comparison(tmp_path, 'ablation', entries, page).read_text()
  assert '| ≈ +1.00 | ≈ +1.00 | ≈ +0.90 | +0.97 |' in written


def test_a_broken_run_hides_no_finding_of_other_rows_and_makes_none(tmp_path: pathlib.Path):
  rows, stored = of('ablation', 'cpu'), tmp_path / 'runs'
  broken = 'the recipe, no gradient to lower paths'
  steady = [BASE, 'onion, the recipe', 'latents without decay', 'companion of ring 1']
  for row, label in enumerate([broken, *steady]):
    for number, run in enumerate(dict.fromkeys(rows[label])):
      lost = 0.15 if label == broken and number == 2 else 0
      value = 0.7 + 0.02 * row + 0.005 * number - lost
      keep(stored, run, {2: value, 4: value, 8: value})
  entries = cells.measured(tables.cells('ablation', CPU), stored, mean=True)
  page = ablation.comparison('ablation', CPU, stored)
  written = results.write_comparison(tmp_path, 'ablation', entries, page).read_text()
  lines = {line.split(' | ')[0].strip('| '): line for line in written.splitlines() if '|' in line}
  assert lines['companion of ring 1'].endswith('| +6.00 | +6.00 | +6.00 | +6.00 |')
  # Nine points behind the recipe, all of them by one run of three.
  assert lines[broken].endswith('| ≈ -9.00 | ≈ -9.00 | ≈ -9.00 | ≈ -9.00 |')
  one_line = ' '.join(written.splitlines())
  assert 'several, is 0.50 (24 degrees of freedom); of the mean, 0.50 (8 degrees' in one_line
  assert 'Of these rows a run broke; they are left out of that' in one_line
  assert f'deviation: {broken}.' in one_line


def test_the_page_of_the_noise_compares_nothing(tmp_path: pathlib.Path):
  rows = of('noise', 'smoke')
  stored = tmp_path / 'runs'
  for row in rows.values():
    keep(stored, row[0], {2: 0.7, 4: 0.8})
    break
  entries = cells.measured(tables.cells('noise', SCALES['smoke']), stored, mean=True)
  page = ablation.comparison('noise', SCALES['smoke'], stored)
  written = results.write_comparison(tmp_path, 'noise', entries, page).read_text()
  assert '| onion, DoReFa (the paper), seeds | 70.00 | 80.00 | 75.00 |\n' in written
  assert 'Δ' not in written
  assert '≈' not in written
