"""The pages of `docs/`: their Python runs, their links lead somewhere."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from dpoq_jax.training import restore

ROOT = pathlib.Path(__file__).resolve().parents[1]
OWN_MODEL = ROOT / 'docs' / 'your_own_model.md'
_BLOCK = re.compile(r'^```python\n(.*?)^```$', re.DOTALL | re.MULTILINE)


def blocks(page: pathlib.Path) -> list[str]:
  """The Python of a page, each piece moved down to its line, so that tracebacks point there."""
  text = page.read_text()
  return ['\n' * text.count('\n', 0, match.start(1)) + match[1] for match in _BLOCK.finditer(text)]


def test_own_model_runs(capsys: pytest.CaptureFixture[str]):
  namespace = {'__name__': 'your_own_model'}
  for block in blocks(OWN_MODEL):
    exec(compile(block, str(OWN_MODEL), 'exec'), namespace)
  # It got to the end, and its asserts hold.
  assert re.search(r'% at \d\.\d\d bits on average\n$', capsys.readouterr().out)


def test_own_model_is_trained_by_the_command(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
  (model,) = (block for block in blocks(OWN_MODEL) if 'class Net' in block)
  imports = 'import flax.linen as nn\nimport jax.numpy as jnp\n'
  (tmp_path / 'my_nets.py').write_text(imports + model.lstrip())
  workdir = tmp_path / 'run'
  config = 'configs/digits_resnet8.py:model=my_nets:Net,width=4,smoke'
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
  network = restore.load(workdir)
  assert network.network.bits == (2, 4)
  assert network.variables['onion']['block2']['shortcut']['conv']['kernel'].shape == (1, 1, 4, 8)


@pytest.mark.parametrize('page', [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))])
def test_links_lead_somewhere(page: pathlib.Path):
  for target in re.findall(r'\]\((?!https?://)([^)#]+)', page.read_text()):
    assert (page.parent / target).exists(), target
