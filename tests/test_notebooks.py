"""The notebooks: paired with their scripts, without outputs, and they run."""

import json
import pathlib
import re
import subprocess
import sys
from typing import Any

import jupytext
import nbclient
import nbformat
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / 'notebooks').glob('*.ipynb'))
TEN_MINUTES = ROOT / 'notebooks' / 'onion_in_ten_minutes.ipynb'

# Run after the last cell of the notebook, in its kernel.
FACTS = """
import json
print(json.dumps({
  'top1': [alone[b] for b in bits],
  'bytes': [size[b] for b in bits],
  'exits': sorted({int(b) for b in result.precisions}),
  'average_bits': [float(result.precisions.mean()), point.reported.average_bits],
  'accuracy': [float(correct.mean()), point.reported.accuracy],
  'cap': [float(cascade(examples.images, max_precision=b).precisions.max()) for b in bits],
}))
"""


def read(path: pathlib.Path) -> Any:
  return nbformat.read(path, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
  return [cell for cell in notebook.cells if cell.cell_type == 'code']


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> pathlib.Path:
  return request.param


def test_there_are_as_many_notebooks_as_scripts():
  scripts = (ROOT / 'notebooks').glob('*.py')
  assert [path.with_suffix('.py') for path in NOTEBOOKS] == sorted(scripts)


def test_notebook_and_script_are_the_same(path: pathlib.Path):
  notebook, script = read(path), jupytext.read(path.with_suffix('.py'))
  cells, others = ([(c.cell_type, c.source) for c in each.cells] for each in (notebook, script))
  assert cells == others, f'run: jupytext --sync {path.relative_to(ROOT)}'
  for each in (notebook, script):
    assert each.metadata.jupytext.formats == 'ipynb,py:percent'
    assert each.metadata.kernelspec.name == 'python3'


def test_notebook_is_stripped(path: pathlib.Path):
  notebook = read(path)
  nbformat.validate(notebook)
  assert set(notebook.metadata) == {'jupytext', 'kernelspec'}
  for cell in notebook.cells:
    assert not cell.metadata
  for cell in code_cells(notebook):
    assert cell.outputs == []
    assert cell.execution_count is None


def test_badge_opens_this_notebook_and_the_first_cell_installs_its_repository(path: pathlib.Path):
  notebook = read(path)
  # Once in the badge, once in what pip is given: the same repository.
  repositories = re.findall(r'github(?:\.com)?/([\w.-]+/[\w.-]+)', path.read_text())
  (repository,) = set(repositories)
  top = notebook.cells[0].source
  address = 'https://colab.research.google.com/github/'
  assert f'{address}{repository}/blob/main/{path.relative_to(ROOT)}' in top
  assert '[![' in top
  first = code_cells(notebook)[0].source
  assert re.search(rf'^ *%pip install .*git\+https://github\.com/{repository}$', first, re.M)


def test_a_checkout_needs_no_installation(path: pathlib.Path):
  first = re.sub('%pip .*', 'raise AssertionError', code_cells(read(path))[0].source)
  # Isolated, so that nothing but the cell can make the package importable.
  command = [sys.executable, '-I', '-c', f'{first}\nimport dpoq_jax; print(dpoq_jax.__file__)']
  ran = subprocess.run(command, cwd=path.parent, check=True, capture_output=True, text=True)
  assert ran.stdout.splitlines() == [str(ROOT / 'dpoq_jax' / '__init__.py')]


@pytest.mark.nightly
def test_ten_minutes_run_and_show_what_they_say(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
  for folder in ('JUPYTER_CONFIG_DIR', 'JUPYTER_DATA_DIR', 'JUPYTER_RUNTIME_DIR', 'IPYTHONDIR'):
    monkeypatch.setenv(folder, str(tmp_path / folder))
  monkeypatch.setenv('PYTHONPATH', str(ROOT))
  monkeypatch.setenv('TMPDIR', str(tmp_path))
  monkeypatch.delenv('MPLBACKEND', raising=False)
  notebook = read(TEN_MINUTES)
  notebook.cells.append(nbformat.v4.new_code_cell(FACTS))
  resources = {'metadata': {'path': str(tmp_path)}}
  # Raises what a cell raises: the assertions of the notebook are part of this test.
  nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()

  outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
  assert sum('image/png' in output.get('data', {}) for output in outputs) == 7
  facts = json.loads(outputs[-1].text)
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
