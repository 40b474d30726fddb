"""The documents: what they name is there, flags and accuracies are right, links lead on."""

import configparser
import csv
import importlib
import pathlib
import pkgutil
import re

from absl import flags as absl_flags
import pytest

import dpoq_jax
from dpoq_jax import configs, pretrained
from dpoq_jax.cli import flags as cli_flags
from dpoq_jax.cli.run import run
from dpoq_jax.deploy.artifact import manifest
from tests.pages import (
  ARCHITECTURE,
  COMMANDS,
  METHOD,
  OWN_MODEL,
  PAGES,
  QUICK_START,
  README,
  ROOT,
  shell_lines,
)

_COMMAND = re.compile(r'^\| `(dpoq \w+|python -m [\w.]+) ?(.*?)` \|', re.MULTILINE)


@pytest.mark.parametrize(
  'page', [page for page in PAGES if shell_lines(page)], ids=lambda page: page.stem
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


def test_own_model_is_made_of_public_names():
  models, _, others = OWN_MODEL.read_text().partition('\n## Train it in your own loop')
  imported = set(re.findall(r'^(?:from|import) (dpoq_jax[\w.]*)', models, re.MULTILINE))
  assert imported == {'dpoq_jax', 'dpoq_jax.nn', 'dpoq_jax.network'}
  assert not re.findall(r'^from dpoq_jax\.(?:core|models)\b', others, re.MULTILINE)


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


def test_page_lists_every_config():
  section = COMMANDS.read_text().partition('\n## Configs\n')[2].partition('\n## ')[0]
  assert set(configs.names()) == {
    name
    for row in re.findall(r'^\| (`.*?) \|', section, re.MULTILINE)
    for name in re.findall(r'`(\w+)`', row)
  }


def committed_accuracies(table: pathlib.Path, network: str = '') -> dict[str, list[str]]:
  """Top-1 of each system as pages quote it: mean, and deviation where there are several seeds."""
  quoted: dict[str, list[str]] = {}
  with table.open(newline='') as file:
    for row in csv.DictReader(file):
      if not row['part'].startswith(network):
        continue
      spread = f' ± {float(row["spread"]):.2f}' if row['spread'] else ''
      # As the tables print it: a mean of two seeds that ends in 5 is rounded down or up.
      quoted.setdefault(row['system'], []).append(f'{float(row["ours"]):.2f}{spread}')
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
  assert counts == [5, 5]


@pytest.mark.parametrize('name', configs.names())
def test_expected_accuracies_of_configs_are_the_committed_ones(name: str):
  text = configs.find(name).read_text()
  source = re.search(r'\(`([^`]+)` in\s(results/\S+\.csv)\)', text)
  if source is None:
    # The paper's, or none: nothing was measured here.
    assert re.search(r'not\s+(yet|measured)', text)
    return
  # Of a table of two networks, that of the config.
  network = 'ResNet-20' if 'resnet20' in name else ''
  committed = committed_accuracies(ROOT / source[2], network)[source[1]]
  found = re.findall(r'\d\d\.\d\d(?: ± \d+\.\d\d)?', text[source.end() :])
  assert len(found) >= 3
  assert found == committed[: len(found)]


def test_questions_list_the_networks_that_come_with_the_library():
  text = (ROOT / 'docs' / 'faq.md').read_text()
  rows = re.findall(r'^\| `(\w+_resnet\d+)` \| [^|]+ \| (.*) \|$', text, re.MULTILINE)
  listed = {name: cells.split(' | ') for name, cells in rows}
  assert set(listed) == set(pretrained.names())
  for name, (bits, top1, size) in listed.items():
    rings = manifest.read(pretrained.folder(name)).rings
    assert bits == ' / '.join(str(ring.precision) for ring in rings)
    assert top1 == ' / '.join(f'{100 * (ring.top1 or 0):.2f}' for ring in rings)
    assert size == f'{sum(ring.bytes for ring in rings):,}'


def test_quick_start_expects_the_committed_accuracies():
  found = re.findall(r'\d+\.\d\d ± \d+\.\d\d', QUICK_START.read_text())
  table = ROOT / 'results' / 'cpu' / 'ABLATION.csv'
  committed = committed_accuracies(table, 'ResNet-8, CIFAR-10')
  assert found == committed['onion, the recipe'][:3]


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
