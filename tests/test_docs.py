"""The documents: their Python and commands run, what they name is there, their links lead on."""

import configparser
import csv
import decimal
import importlib
import os
import pathlib
import pkgutil
import re
import shlex
import subprocess
import sys
from typing import Any

from absl import flags as absl_flags
import numpy as np
from PIL import Image
import pytest

import dpoq_jax
from dpoq_jax import configs, from_run
from dpoq_jax.cli import flags as cli_flags
from dpoq_jax.cli.run import run
from tests import conftest
from tests.data import tiny_cifar
from tests.end_to_end import runs

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = ROOT / 'README.md'
ARCHITECTURE = ROOT / 'docs' / 'architecture.md'
COMMANDS = ROOT / 'docs' / 'commands.md'
METHOD = ROOT / 'docs' / 'method.md'
OWN_MODEL = ROOT / 'docs' / 'your_own_model.md'
QUICK_START = ROOT / 'docs' / 'quick_start.md'
PAGES = [
  README,
  ROOT / 'CONTRIBUTING.md',
  ROOT / 'notebooks' / 'README.md',
  *sorted((ROOT / 'docs').rglob('*.md')),
]
_BLOCK = re.compile(r'^```python\n(.*?)^```$', re.DOTALL | re.MULTILINE)
_SHELL = re.compile(r'^```sh\n(.*?)^```$', re.DOTALL | re.MULTILINE)
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


def shell_lines(page: pathlib.Path) -> list[list[str]]:
  """The words of every command of a page."""
  joined = (block.replace('\\\n', ' ') for block in _SHELL.findall(page.read_text()))
  lines = (line for block in joined for line in block.splitlines())
  return [words for line in lines if (words := shlex.split(line, comments=True))]


# What makes a training of a page short: these flags come last.
SHORTENED = {
  'runs/digits': ['--config=digits_resnet8:width=4,bits=2-4-8', '--config.epochs=1'],
  'runs/cifar10': ['--config.epochs=1', '--config.model.width=4', '--config.data.batch_size=20'],
}


def follow(page: pathlib.Path, folder: pathlib.Path) -> None:
  """Runs the commands of a page in a folder, from top to bottom, trainings shortened."""
  folder.mkdir()
  random = np.random.default_rng(0)
  (folder / 'photos').mkdir()
  for name in ('a.png', 'b.jpg'):
    Image.fromarray(random.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / 'photos' / name)
  with pytest.MonkeyPatch.context() as patch:
    for program, *words in shell_lines(page):
      if program == 'pip':
        continue
      assert program == 'dpoq', program
      name, *words = words
      if name == 'prepare':
        words.append(f'--source={tiny_cifar.write("cifar10", folder / "batches", patch).parent}')
      if name == 'train':
        (workdir,) = (word for word in words if word.startswith('--workdir='))
        words += [*SHORTENED[workdir.partition('=')[2]], '--config.optimizer.warmup_epochs=0']
        done = runs.command(name, *words, cwd=folder)
      else:
        done = runs.call(name, *words, cwd=folder)
      # So small a network need not meet the target; then calibrate says so by status 3.
      allowed = (0, 3) if name == 'calibrate' else (0,)
      assert done.returncode in allowed, (name, words, done.stderr)


@pytest.mark.parametrize('page', [README, QUICK_START], ids=lambda page: page.stem)
def test_page_is_followed(
  page: pathlib.Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
):
  folder = conftest.once(
    tmp_path_factory, f'followed_{page.stem}', lambda folder: follow(page, folder)
  )
  assert (folder / 'labels.csv').read_text().count('\n') == 3
  monkeypatch.chdir(folder)
  left = run_blocks(page)
  if page == README:
    assert left['classifier'].bits == (2, 4)
    assert left['result'].precisions.tolist() == [2] * len(left['images'])
    return
  assert set(left['labelled'].precisions) == {2}
  assert sum(len(result.labels) for result in left['results']) == len(left['photos'])
  assert left['held'].bits == (2, 4, 8)
  assert left['logits'].shape == left['every'].shape == (3, len(left['photos']), 10)
  assert left['low'].shape == (1, len(left['photos']), 10)
  assert left['two_bits'].max() <= 3


@pytest.mark.parametrize('name', ['operating_point', 'run_in_jax'])
def test_python_of_a_how_to_runs(name: str):
  run_blocks(ROOT / 'docs' / 'how_to' / f'{name}.md')


def test_python_of_the_onnx_runtime_runs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
  pytest.importorskip('onnxruntime')
  workdir = tmp_path / 'run'
  # A model of the library: how the tests' own joins its layers, ONNX graphs do not know.
  one_epoch = ('--config.epochs=1', '--config.optimizer.warmup_epochs=0')
  status, _, err = runs.train(workdir, *one_epoch, model=runs.RESNET)
  assert status == 0, err
  np.save(tmp_path / 'images.npy', np.zeros((4, 8, 8, 1), np.uint8))
  monkeypatch.chdir(tmp_path)
  done = runs.call(
    'export', f'--workdir={workdir}', '--format=onnx', '--output=shipped_onnx', cwd=tmp_path
  )
  assert done.returncode == 0, done.stderr
  left = run_blocks(ROOT / 'docs' / 'how_to' / 'run_in_onnx_runtime.md')
  assert left['logits'].shape == (4, 10)


def known(page: pathlib.Path) -> bool:
  """Whether the configs that a page names are there."""
  return page.stem != 'own_images' or page.stem in configs.names()


@pytest.mark.parametrize(
  'page', [page for page in PAGES if shell_lines(page) and known(page)], ids=lambda page: page.stem
)
def test_commands_of_a_page_are_understood(page: pathlib.Path):
  """Flags are known, configs found and valid, scripts there, extras those of setup.cfg."""
  parser = configparser.ConfigParser()
  parser.read(ROOT / 'setup.cfg')
  for program, *words in shell_lines(page):
    if program in ('bash', 'python', 'sbatch'):
      (script, *_) = [word for word in words if '/' in word or word == '-m']
      if script.startswith('launch/'):
        assert (ROOT / script).is_file(), script
    for extra in re.findall(r'\[(\w+)\]', ' '.join(words)) if program == 'pip' else ():
      assert extra in {*parser['options.extras_require'], 'cuda12', 'tpu'}
    for wheel in re.findall(r'dpoq_jax-([\d.]+)-py3', ' '.join(words)):
      assert wheel == dpoq_jax.__version__
    if program == 'dpoq':
      understood(*words)


def understood(name: str, *words: str) -> None:
  """Parses the flags of a command as it does, and checks the config."""

  def main(flags: cli_flags.FlagValues, *arguments: str) -> None:
    del arguments
    if name == 'train':
      # Fields of the config must go together, whatever the page's folders hold.
      cli_flags.parsed_config(flags)

  module = module_of(f'dpoq {name}')
  if (ROOT.joinpath(*module.split('.'))).is_dir():
    module += '.__main__'
  with pytest.raises(SystemExit) as ended:
    run(importlib.import_module(module).define_flags, main, 'any', 0, None, words)
  assert not ended.value.code, (name, words)


def test_functions_of_the_method_exist():
  names = re.findall(r'`((?:onion|core|network|training|inference)(?:\.\w+)+)`', METHOD.read_text())
  assert len(names) > 30
  for name in names:
    assert callable(pkgutil.resolve_name(f'dpoq_jax.{name}')), name


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
  [pytest.param(*row, id=row[0]) for row in _COMMAND.findall(COMMANDS.read_text())],
)
def test_commands_have_the_flags_that_the_page_gives(command: str, usage: str):
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


def test_page_lists_every_command():
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
  assert commands == {module_of(command) for command, _ in _COMMAND.findall(COMMANDS.read_text())}


def committed_accuracies(table: pathlib.Path, network: str = '') -> dict[str, list[str]]:
  """Top-1 of each system as pages quote it: mean, and deviation where there are several seeds."""
  quoted: dict[str, list[str]] = {}
  with table.open(newline='') as file:
    for row in csv.DictReader(file):
      if not row['part'].startswith(network):
        continue
      spread = f' ± {float(row["spread"]):.2f}' if row['spread'] else ''
      # A mean of two seeds may end in 5, which floats round down or up.
      mean = decimal.Decimal(row['ours']).quantize(decimal.Decimal('0.01'), decimal.ROUND_HALF_UP)
      quoted.setdefault(row['system'], []).append(f'{mean}{spread}')
  return quoted


def test_accuracies_in_readme_are_the_committed_ones():
  section = README.read_text().partition('## Against what else there is')[2]
  # A table follows the sentence that names its network and the page that it is of.
  tables = re.findall(r'(ResNet-\d+),[^|]*?\((results/\S+)\.md\)[^|]*\n((?:\|.*\n)+)', section)
  counts: list[int] = []
  for network, page, table in tables:
    committed = committed_accuracies(ROOT / f'{page}.csv', network)
    rows = re.findall(r'^\| ([^|]+) \| (\d[^|]+) \| ([^|]+) \| ([^|]+) \|$', table, re.MULTILINE)
    for system, *numbers in rows:
      assert numbers == committed[system][:3], system
    counts.append(len(rows))
  assert counts == [5, 3]


@pytest.mark.parametrize('name', configs.names())
def test_expected_accuracies_of_configs_are_the_committed_ones(name: str):
  text = configs.find(name).read_text()
  source = re.search(r'\(`([^`]+)` in\s(results/\S+\.csv)\)', text)
  if source is None:
    # The paper's, or none: nothing was measured here.
    assert re.search(r'not\s+(yet|measured)', text)
    return
  committed = committed_accuracies(ROOT / source[2])[source[1]]
  found = re.findall(r'\d+\.\d\d ± \d+\.\d\d', text)
  assert found
  assert found == committed[: len(found)]


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
