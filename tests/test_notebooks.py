"""The notebooks: written from their scripts, without outputs, and they run."""

import configparser
import csv
import json
import pathlib
import subprocess
import sys
from typing import Any

import jupytext
import nbformat
import pytest

from tests import executed_notebooks

ROOT = pathlib.Path(__file__).resolve().parents[1]
notebooks = executed_notebooks.script('notebooks')

PLOTS = {'onion_in_ten_minutes': 4, 'cifar10_on_a_gpu': 4, 'your_own_images': 1, 'deploy': 1}


def code_cells(notebook: Any) -> list[Any]:
  return [cell for cell in notebook.cells if cell.cell_type == 'code']


@pytest.fixture(params=notebooks.NAMES)
def path(request: pytest.FixtureRequest) -> pathlib.Path:
  return notebooks.FOLDER / f'{request.param}.ipynb'


def test_every_script_has_a_notebook_that_is_listed():
  names = sorted(notebooks.NAMES)
  for suffix in ('py', 'ipynb'):
    assert sorted(path.stem for path in notebooks.FOLDER.glob(f'*.{suffix}')) == names
  listed = (notebooks.FOLDER / 'README.md').read_text()
  assert all(f'[{name}]({name}.ipynb)' in listed for name in names)
  site = (ROOT / 'mkdocs.yml').read_text()
  assert all(f'- notebooks/{name}.md' in site for name in names)


def test_notebook_and_script_are_the_same(path: pathlib.Path):
  notebook, script = notebooks.read(path), jupytext.read(path.with_suffix('.py'))
  cells, others = ([(c.cell_type, c.source) for c in each.cells] for each in (notebook, script))
  assert cells == others, 'run: python docs/scripts/notebooks.py sync'
  for each in (notebook, script):
    assert each.metadata.jupytext.formats == 'ipynb,py:percent'
    assert each.metadata.kernelspec.name == 'python3'


def test_notebook_is_stripped(path: pathlib.Path):
  notebook = notebooks.read(path)
  nbformat.validate(notebook)
  assert set(notebook.metadata) == {'jupytext', 'kernelspec'}
  for cell in notebook.cells:
    assert not cell.metadata
  for cell in code_cells(notebook):
    assert cell.outputs == []
    assert cell.execution_count is None


def test_badge_and_installation_follow_the_address(path: pathlib.Path):
  script = path.with_suffix('.py').read_text()
  assert notebooks.addressed(script, path.stem, notebooks.address()) == script
  setup = configparser.ConfigParser()
  setup.read(ROOT / 'setup.cfg')
  assert notebooks.address() == setup['metadata'].get('url')

  on_github = 'https://github.com/someone/dpoq_jax'
  found = notebooks.addressed(script, path.stem, on_github)
  opened = f'colab.research.google.com/github/someone/dpoq_jax/blob/main/notebooks/{path.name}'
  top, first = jupytext.reads(found, 'py:percent').cells[:2]
  assert top.source.startswith('# ')
  assert '\n\n[![Open in Colab][badge]][colab]\n\n' in top.source
  assert f'[colab]: https://{opened}\n' in top.source
  assert f"SOURCE = 'git+{on_github}'" in first.source
  # The same once more, elsewhere, where Colab cannot read, and not at all.
  assert notebooks.addressed(found, path.stem, on_github) == found
  other = notebooks.addressed(found, path.stem, 'https://git.example.org/dpoq_jax')
  assert 'olab.research' not in other
  assert "SOURCE = 'git+https://git.example.org/dpoq_jax'" in other
  assert notebooks.addressed(other, path.stem, None) == notebooks.addressed(script, path.stem, None)


def installed_from(folder: pathlib.Path, **variables: str) -> list[str]:
  """What the first cell gives to pip in a folder, in a Python that has nothing but itself."""
  (first,) = {
    code_cells(notebooks.read(notebooks.FOLDER / f'{name}.ipynb'))[0].source
    for name in notebooks.NAMES
  }
  cell = first.replace('%pip install --quiet {source}', 'print(source)')
  assert cell != first
  command = [sys.executable, '-I', '-S', '-c', cell]
  environment = {'PATH': '/usr/bin', **variables}
  done = subprocess.run(
    command, cwd=folder, env=environment, check=True, capture_output=True, text=True
  )
  return done.stdout.splitlines()


def test_first_cell_installs_what_there_is(tmp_path: pathlib.Path):
  assert installed_from(tmp_path) == [f'git+{notebooks.address()}' if notebooks.address() else '..']
  for version in ('0.1.0', '0.2.0'):
    (tmp_path / f'dpoq_jax-{version}-py3-none-any.whl').touch()
  assert installed_from(tmp_path) == ['dpoq_jax-0.2.0-py3-none-any.whl']
  assert installed_from(tmp_path, DPOQ_JAX='/a/folder') == ['/a/folder']


def test_first_cell_leaves_an_installation_alone():
  cell = code_cells(notebooks.read(notebooks.FOLDER / 'deploy.ipynb'))[0].source
  cell = cell.replace('%pip install --quiet {source}', 'raise AssertionError')
  program = f'import sys; sys.path.insert(0, {str(ROOT)!r})\n{cell}'
  subprocess.run([sys.executable, '-I', '-c', program], check=True)


def test_committed_accuracies_are_those_of_the_table():
  (line,) = (
    line
    for line in (notebooks.FOLDER / 'cifar10_on_a_gpu.py').read_text().splitlines()
    if line.startswith('COMMITTED = ')
  )
  committed: dict[int, tuple[float, float]] = eval(line.partition(' = ')[2])
  with (ROOT / 'results' / 'cpu' / 'ABLATION.csv').open() as file:
    rows = {
      int(row['at'].removesuffix(' bits')): row
      for row in csv.DictReader(file)
      if row['system'] == 'onion, the recipe' and row['at'] != 'mean'
    }
  assert committed == {
    b: (round(float(row['ours']), 2), round(float(row['spread']), 2)) for b, row in rows.items()
  }
  assert {row['seeds'] for row in rows.values()} == {'3'}


def executed(name: str, tmp_path_factory: pytest.TempPathFactory, *, short: bool) -> Any:
  """What a notebook leaves; that all of it ran, and drew its plots, is checked here."""

  folder = executed_notebooks.folder(name, tmp_path_factory, short=short)
  copy = notebooks.read(folder / f'{name}.ipynb')
  outputs = [output for cell in code_cells(copy) for output in cell.outputs]
  assert sum('image/png' in output.get('data', {}) for output in outputs) == PLOTS[name]
  assert not any('\x1b' in output.get('text', '') for output in outputs)
  return json.loads((folder / 'facts.json').read_text())


@pytest.mark.parametrize('short', [True, pytest.param(False, marks=pytest.mark.nightly)])
def test_ten_minutes_show_what_they_say(short: bool, tmp_path_factory: pytest.TempPathFactory):
  facts = executed('onion_in_ten_minutes', tmp_path_factory, short=short)
  if not short:
    # Chance is 0.1. Bounds are wide: a last bit that differs makes another run of training.
    assert min(facts['top1']) > 0.5
    assert max(facts['top1']) > 0.8
  assert facts['bytes'] == sorted(set(facts['bytes']))
  assert set(facts['exits']) <= {2, 4, 8}
  for name in ('average_bits', 'accuracy'):
    # Of the cascade and of the logits it was chosen from.
    cascade, expected = facts[name]
    assert cascade == pytest.approx(expected, abs=0.02), name
  assert 2 <= facts['average_bits'][0] <= 8
  assert all(most <= cap for most, cap in zip(facts['cap'], (2, 4, 8), strict=True))


@pytest.mark.nightly
def test_cifar10_runs_to_its_end(tmp_path_factory: pytest.TempPathFactory):
  facts = executed('cifar10_on_a_gpu', tmp_path_factory, short=True)
  assert len(facts['top1']) == 2
  # Eight epochs of digits are more than chance.
  assert max(facts['top1']) > 0.2
  assert facts['labels'] == 180
  assert facts['right'] > 0.2
  assert facts['capped'] in (2, 4)


@pytest.mark.nightly
@pytest.mark.parametrize('short', [True, False])
def test_a_folder_of_pictures_is_labelled(short: bool, tmp_path_factory: pytest.TempPathFactory):
  facts = executed('your_own_images', tmp_path_factory, short=short)
  names = {'disc', 'hexagon', 'square', 'triangle'}
  assert len(facts['rows']) == 16
  assert {row['class_name'] for row in facts['rows']} <= names
  right = sum(row['class_name'] == pathlib.Path(row['input']).parent.name for row in facts['rows'])
  # Chance is 4 of 16.
  assert short or right >= 8
  bits = (2, 4) if short else (2, 4, 8)
  assert facts['shipped'] == sorted(['manifest.json', *(f'ring_{b}.safetensors' for b in bits)])


def test_a_network_is_deployed(tmp_path_factory: pytest.TempPathFactory):
  pytest.importorskip('onnxruntime')
  facts = executed('deploy', tmp_path_factory, short=False)
  assert facts['sizes'] == sorted(set(facts['sizes']))
  # What was sent is what is there: a manifest and four rings.
  assert [facts['sizes'][-1], 5] == facts['files']
  assert facts['top1'] == pytest.approx(facts['known'], abs=0.003)
  assert facts['equal'] > 0.98
  assert set(facts['exits']) <= {2, 4, 8, 16}
