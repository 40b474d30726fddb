"""A table of the paper at scale `smoke`, from the command to the page."""

import csv
import pathlib
import shutil
import subprocess

import pytest

from tests.end_to_end import runs


def reproduce(what: str, folder: pathlib.Path, *flags: str) -> subprocess.CompletedProcess[str]:
  return runs.command('reproduce', what, *flags, *where(folder))


def where(folder: pathlib.Path) -> tuple[str, str]:
  """Flags that have the runs and the results in a folder."""
  return f'--workdir={folder / "work"}', f'--results={folder / "results"}'


@pytest.mark.nightly
def test_a_figure_trains_what_it_shows_and_is_on_the_page(tmp_path: pathlib.Path):
  done = reproduce('figure3', tmp_path, '--scale=smoke')
  assert done.returncode == 0, done.stderr
  assert '1 runs, 0 of them done' in done.stdout
  folder = tmp_path / 'results' / 'smoke'
  assert (folder / 'figure3.png').is_file()
  assert '## Figure 3' in (folder / 'TABLE.md').read_text()
  # Figure 5 has a second network: what there is is shown, until the other is trained.
  for flag, is_missing in (('--notrain', True), ('--train', False)):
    done = reproduce('figure5', tmp_path, '--scale=smoke', flag)
    assert done.returncode == 0, done.stderr
    assert '2 runs, 1 of them done' in done.stdout
    page = (folder / 'TABLE.md').read_text()
    assert ('Missing: onion, the recipe.' in page) == is_missing
    assert page.count('| dynamic, weighted | ') == (1 if is_missing else 2)
  assert '| onion, the recipe: dynamic, within 0.1 | ' in page
  assert (folder / 'figure5.png').is_file()


@pytest.mark.nightly
def test_table_1_and_the_figures(tmp_path: pathlib.Path):
  done = reproduce('table1', tmp_path, '--scale=smoke')
  assert done.returncode == 0, done.stderr
  assert '11 runs, 0 of them done' in done.stdout
  folder = tmp_path / 'results' / 'smoke'
  with (folder / 'TABLE.csv').open() as file:
    rows = list(csv.DictReader(file))
  systems = {row['system'] for row in rows}
  assert {'individual', 'joint', 'separate + PSBN', 'truncated after training'} <= systems
  assert len(systems) == 11
  found = {(row['system'], row['at']): float(row['ours']) for row in rows}
  # No gradient comes down: the lowest path is the individual network, to the last bit.
  assert found['separate + PSBN', '2 bits'] == found['individual', '2 bits']
  assert found['separate', '2 bits'] == found['individual', '2 bits']
  assert (
    found['truncated after training', '2 bits'] < found['truncated, statistics renewed', '2 bits']
  )
  assert min(found[system, '4 bits'] for system in systems) > 50
  assert (folder / 'table1.png').is_file()

  for figure, count in (('figure3', 1), ('figure5', 2)):
    done = reproduce(figure, tmp_path, '--scale=smoke')
    assert done.returncode == 0, done.stderr
    assert f'{count} runs, 1 of them done' in done.stdout
    assert (folder / f'{figure}.png').is_file()
  page = (folder / 'TABLE.md').read_text()
  assert '| normalised | ' in page
  assert page.index('## Figure 3') < page.index('## Figure 5') < page.index('## Table 1')

  # Everything is there: nothing is trained, and the page stays what it was.
  done = reproduce('table1', tmp_path, '--scale=smoke')
  assert '11 runs, 11 of them done' in done.stdout
  assert (folder / 'TABLE.md').read_text() == page


@pytest.mark.nightly
def test_the_ablation(tmp_path: pathlib.Path):
  done = reproduce('ablation', tmp_path, '--scale=smoke')
  assert done.returncode == 0, done.stderr
  assert '7 runs, 0 of them done' in done.stdout
  folder = tmp_path / 'results' / 'smoke'
  page = (folder / 'ABLATION.md').read_text()
  assert page.count('| onion, ') == 3
  assert 'Missing' not in page
  with (folder / 'ABLATION.csv').open() as file:
    found = {(row['system'], row['at']): float(row['ours']) for row in csv.DictReader(file)}
  assert len(found) == 6 * 3
  # Levers take hold.
  assert len({value for (_, at), value in found.items() if at == 'mean'}) > 4
  assert (folder / 'ablation.png').is_file()
  # The table of the recipe has some of these runs.
  done = reproduce('recipe', tmp_path, '--scale=smoke', '--notrain')
  assert '9 runs, 2 of them done' in done.stdout
  page = (folder / 'RECIPE.md').read_text()
  assert '- shared kernels, DoReFa: 0 of 1 runs done' in page
  assert '| onion, the recipe | ' in page
  assert not (folder / 'TABLE.md').exists()


@pytest.mark.parametrize(
  ('what', 'flags', 'expected'),
  [
    ('', ['--scale=smoke'], 'give table1, table2, table3, figure3, figure5, ablation'),
    ('table4', ['--scale=smoke'], 'table4: there are table1, '),
    ('table1', [], '--scale=smoke|cpu|long|paper is required'),
    ('table1', ['--scale=huge'], '--scale'),
    ('figure3', ['--scale=long'], 'figure3 is not made at scale long: give smoke, cpu, paper.'),
    ('ablation', ['--scale=long'], 'ablation is not made at scale long: give smoke, cpu, paper.'),
    ('figure3', ['--scale=smoke', '--notrain'], 'none of the 1 networks of figure3 is in'),
    ('table1', ['--scale=smoke', '--notrain'], 'none of the 11 results of table1 is in'),
    ('noise', ['--scale=cpu', '--notrain'], 'leave out --notrain'),
    ('tabel1', ['--scale=smoke'], 'noise, figure3, figure5; did you mean table1?'),
    ('xyz', ['--scale=smoke'], 'recipe, noise, figure3, figure5.'),
    ('table1', ['--scale=smoke', '--fresh'], '--fresh and --results given'),
    (
      'table1',
      ['--scale=cpu', '--data-dir=/no/where'],
      'data set cifar10 not found in /no/where: give --data-dir=DIR, where it is now, or run dpoq '
      'prepare cifar10 --data-dir=/no/where',
    ),
  ],
)
def test_bad_requests_are_one_line(what, flags, expected, tmp_path: pathlib.Path):
  status, err = runs.refused('reproduce', *([what] if what else []), *flags, *where(tmp_path))
  assert status == 2
  assert err.count('\n') == 1, err
  assert expected in err
  # Nothing was started, and no page without a number in it takes the place of another.
  assert not list(tmp_path.glob('work/*/*.log'))
  assert not list(tmp_path.glob('results/*/*.md'))


def test_what_comes_with_the_repository_is_said_to_be_that_and_is_trained_anew_on_request(
  tmp_path: pathlib.Path,
):
  kept = tmp_path / 'results'
  shutil.copytree(runs.REPOSITORY / 'results' / 'cpu', kept / 'cpu')
  done = runs.call('reproduce', 'table1', '--scale=cpu', *where(tmp_path))
  assert done.returncode == 0, done.stderr
  stored, workdir = kept / 'cpu' / 'runs', tmp_path / 'work' / 'cpu'
  first, *_, last = done.stdout.splitlines()
  assert first.endswith(f' results kept in {stored}, 0 of them trained in {workdir}')
  count = int(first.partition(' runs, ')[0])
  assert f'{count} of them done' in first
  assert last == (
    f'nothing was trained: all {count} results are those kept in {stored}; --fresh trains all anew '
    'and keeps these.'
  )
  before = {path: path.read_bytes() for path in kept.rglob('*') if path.is_file()}
  # The data that this needs are not there: it would have trained.
  fresh = ('--fresh', f'--workdir={tmp_path / "work"}', '--data-dir=/no/where')
  done = runs.call('reproduce', 'table1', '--scale=cpu', *fresh)
  assert done.returncode == 2
  assert f'{count} runs, 0 of them done: results kept in {workdir / "results"}' in done.stdout
  assert 'give --data-dir=DIR' in done.stderr
  assert before == {path: path.read_bytes() for path in kept.rglob('*') if path.is_file()}
