"""What stands beside the code for those who change or cite it agrees with the code."""

import pathlib
import re
import shlex

import yaml

import dpoq_jax

ROOT = pathlib.Path(__file__).resolve().parents[1]
CHECKERS = ('ruff', 'lint-imports', 'pyright')


def test_hooks_run_the_checks_of_the_test_script():
  script = (ROOT / 'launch' / 'test.sh').read_text().replace('$bin', '.venv/bin')
  checks: dict[str, list[str]] = {}
  for stage in re.findall(r'^stage (.*)$', script, re.MULTILINE):
    name, *command = shlex.split(stage)
    if pathlib.Path(command[0]).name in CHECKERS:
      checks[name] = command
  hooks = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos'][0]['hooks']
  assert {hook['name']: shlex.split(hook['entry']) for hook in hooks} == checks
  assert all(hook['language'] == 'system' and not hook['pass_filenames'] for hook in hooks)


def test_citation_is_of_this_version():
  citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
  assert citation['version'] == dpoq_jax.__version__
  assert citation['license'] == 'Apache-2.0'
  (paper,) = citation['references']
  assert paper['url'] in (ROOT / 'README.md').read_text()
