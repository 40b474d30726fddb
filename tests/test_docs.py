"""The documents: their Python runs, what they name is there, their links lead somewhere."""

import configparser
import csv
import importlib
import os
import pathlib
import re
import subprocess
import sys
from typing import Any

from absl import flags as absl_flags
import pytest

from dpoq_jax import from_run
from tests import conftest
from tests.end_to_end import runs

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = ROOT / 'README.md'
ARCHITECTURE = ROOT / 'docs' / 'architecture.md'
OWN_MODEL = ROOT / 'docs' / 'your_own_model.md'
PAGES = [README, ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md'))]
_BLOCK = re.compile(r'^```python\n(.*?)^```$', re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r'^\| `(dpoq \w+|python -m [\w.]+) ?(.*?)` \|', re.MULTILINE)


def blocks(page: pathlib.Path) -> list[str]:
  """The Python of a page, each piece moved down to its line, so that tracebacks point there."""
  text = page.read_text()
  return ['\n' * text.count('\n', 0, match.start(1)) + match[1] for match in _BLOCK.finditer(text)]


def run_blocks(page: pathlib.Path) -> dict[str, Any]:
  """Runs the Python of a page from top to bottom; returns the variables it leaves."""
  namespace: dict[str, Any] = {'__name__': page.stem}
  for block in blocks(page):
    exec(compile(block, str(page), 'exec'), namespace)
  return namespace


@pytest.fixture(scope='session')
def readme_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Folder with a small run where the README has one, after the README's own commands."""

  def make(folder: pathlib.Path) -> None:
    folder.mkdir()
    # A model of the library: what an exported file names is not imported.
    trained = runs.train(folder / 'runs' / 'cifar10', bits='2,4,8', model=runs.RESNET)
    assert trained[0] == 0, trained
    text = README.read_text()
    for name in ('calibrate', 'export', 'inspect'):
      usage = re.search(rf'^dpoq {name} ([^#\n]*)', text, re.MULTILINE)
      assert usage, name
      # Paths as of the folder: commands are run in the repository.
      words = re.sub(r'(?<!\S)(--\w+=)?(?=runs/|shipped)', rf'\g<1>{folder}/', usage[1]).split()
      done = runs.call(name, *words)
      # So small a network need not meet the target; then calibrate says so by status 3.
      assert done.returncode in ((0, 3) if name == 'calibrate' else (0,)), done.stderr

  return conftest.once(tmp_path_factory, 'readme', make)


def test_readme_runs(readme_folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
  monkeypatch.chdir(readme_folder)
  left = run_blocks(README)
  assert left['low'].shape == (1, 1, 10)
  images = len(left['images'])
  assert sum(len(result.labels) for result in left['results']) == images
  assert left['result'].precisions.max() <= 4
  assert left['logits'].shape == (2, images, 10)
  assert left['held'].bits == (2, 4, 8)


def test_own_model_runs(capsys: pytest.CaptureFixture[str]):
  run_blocks(OWN_MODEL)
  # It got to the end, and its asserts hold.
  assert re.search(r'% at \d\.\d\d bits on average\n$', capsys.readouterr().out)


def test_own_model_is_made_of_public_names():
  models, _, others = OWN_MODEL.read_text().partition('\n## Train it in your own loop')
  imported = set(re.findall(r'^(?:from|import) (dpoq_jax[\w.]*)', models, re.MULTILINE))
  assert imported == {'dpoq_jax', 'dpoq_jax.nn', 'dpoq_jax.network'}
  assert not re.findall(r'^from dpoq_jax\.(?:core|models)\b', others, re.MULTILINE)


def test_own_model_is_trained_by_the_command(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
  (model,) = (block for block in blocks(OWN_MODEL) if 'class Net' in block)
  imports = 'import flax.linen as nn\nimport jax.numpy as jnp\n'
  (tmp_path / 'my_nets.py').write_text(imports + model.lstrip())
  workdir = tmp_path / 'run'
  config = 'digits_resnet8:model=my_nets:Net,width=4,smoke'
  done = subprocess.run(
    [sys.executable, '-m', 'dpoq_jax.train', f'--config={config}', f'--workdir={workdir}'],
    cwd=ROOT,
    env={
      **os.environ,
      'PYTHONPATH': str(tmp_path),
      'XLA_FLAGS': '--xla_backend_optimization_level=0',
    },
    capture_output=True,
    text=True,
    check=False,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  # And found again by who reads the run.
  monkeypatch.syspath_prepend(tmp_path)
  trained = from_run.open_network(workdir)
  assert trained.network.bits == (2, 4)
  kernel = trained.variables['onion']['block2']['shortcut']['conv']['kernel']
  assert kernel.shape == (1, 1, 4, 8)


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: pathlib.Path):
  for target in re.findall(r'\]\((?!https?://)([^)#]+)', page.read_text()):
    assert (page.parent / target).exists(), target


# `your_own_model.md` names a file that its reader is to write.
@pytest.mark.parametrize(
  'page', [page for page in PAGES if page != OWN_MODEL], ids=lambda page: page.stem
)
def test_files_that_are_named_exist(page: pathlib.Path):
  """Files are named from the root of the repository, or from dpoq_jax/."""
  for name in re.findall(
    r'`([\w./-]+\.(?:py|sh|sbatch|cfg|toml|jinja|css|js))\b', page.read_text()
  ):
    assert any((folder / name).is_file() for folder in (ROOT, ROOT / 'dpoq_jax')), name


def test_floors_are_those_that_import_linter_checks():
  parser = configparser.ConfigParser()
  parser.read(ROOT / 'setup.cfg')
  layers = parser['importlinter:contract:floors']['layers'].split('\n')
  _, _, section = ARCHITECTURE.read_text().partition('\n## Floors\n')
  rows = re.findall(r'^\| (`[^|]*`) \|', section.partition('\n## ')[0], re.MULTILINE)
  assert [re.findall(r'`(\w+)`', row) for row in rows] == [
    re.findall(r'\w+', layer) for layer in layers if layer
  ]


def module_of(command: str) -> str:
  """The module that `dpoq NAME` or `python -m MODULE` runs."""
  return command.replace('dpoq ', 'dpoq_jax.').removeprefix('python -m ')


@pytest.mark.parametrize(
  ('command', 'usage'),
  [pytest.param(*row, id=row[0]) for row in _COMMAND.findall(README.read_text())],
)
def test_commands_have_the_flags_that_readme_gives(command: str, usage: str):
  module = module_of(command)
  path = ROOT.joinpath(*module.split('.'))
  if path.is_dir():
    module, path = f'{module}.__main__', path / '__main__'
  source = path.with_suffix('.py').read_text()
  if 'def define_flags(' in source:
    values = absl_flags.FlagValues()
    importlib.import_module(module).define_flags(values)
    known = set(values)
  else:
    # Importing several benchmarks would define their flags in one process, twice.
    known = {name.strip('-').replace('-', '_') for name in re.findall(r"'([\w-]+)'", source)}
  given = {name.replace('-', '_') for name in re.findall(r'--([\w-]+)', usage)}
  assert given <= known


def test_readme_lists_every_command():
  files = [*(ROOT / 'dpoq_jax').rglob('*.py'), *(ROOT / 'benchmarks').glob('*.py')]
  commands = {
    '.'.join(file.relative_to(ROOT).with_suffix('').parts).removesuffix('.__main__')
    for file in files
    if "\nif __name__ == '__main__':" in file.read_text()
  }
  # What an export copies beside its graphs is started there.
  commands.discard('dpoq_jax.deploy.onnx.predict')
  # `dpoq` itself.
  commands.discard('dpoq_jax.cli.subcommands')
  assert commands == {module_of(command) for command, _ in _COMMAND.findall(README.read_text())}


def committed_accuracies(table: pathlib.Path) -> dict[str, list[str]]:
  """Top-1 of each system as pages quote it: mean, and deviation where there are several seeds."""
  quoted: dict[str, list[str]] = {}
  with table.open(newline='') as file:
    for row in csv.DictReader(file):
      spread = f' ± {float(row["spread"]):.2f}' if row['spread'] else ''
      quoted.setdefault(row['system'], []).append(f'{float(row["ours"]):.2f}{spread}')
  return quoted


def test_accuracies_in_readme_are_the_committed_ones():
  committed = committed_accuracies(ROOT / 'results/gpu/cpu/ABLATION.csv')
  section = README.read_text().partition('## Against what else there is')[2]
  rows = re.findall(r'^\| ([^|]+) \| (\d[^|]+) \| ([^|]+) \| ([^|]+) \|$', section, re.MULTILINE)
  assert len(rows) == 4
  for system, *numbers in rows:
    assert numbers == committed[system][:3], system


def test_expected_accuracies_of_the_recipe_are_the_committed_ones():
  committed = committed_accuracies(ROOT / 'results/gpu/cpu/ABLATION.csv')['onion, the recipe']
  text = (ROOT / 'dpoq_jax/configs/cifar10_resnet8_cpu_plus.py').read_text()
  assert all(number.partition(' ')[0] in text for number in committed[:3])


# Of other programs: TFDS, XLA.
_FOREIGN = re.compile(r'--(xla_|out_file_format|dataset_version_dir)')


def test_flags_are_written_with_dashes():
  sources = [*(ROOT / 'dpoq_jax').rglob('*.py'), *(ROOT / 'benchmarks').glob('*.py')]
  texts = [*PAGES, ROOT / 'results' / 'README.md', *sources, *(ROOT / 'launch').iterdir()]
  wrong = [
    f'{path.relative_to(ROOT)}: {found[0]}'
    for path in texts
    if path.is_file()
    for found in re.finditer(r'(?<![\w-])--[a-z]+_[a-z_]+', path.read_text())
    if not _FOREIGN.match(found[0])
  ]
  assert not wrong
