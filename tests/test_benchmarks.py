"""Benchmarks start as commands do: help without extras, one line for bad input."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
STARTED = sorted(
  path.stem
  for path in (ROOT / 'benchmarks').glob('*.py')
  if 'command.start(main)' in path.read_text()
)
WITH_FOLDERS = ('cascade', 'onnx_agreement', 'onnx_runtime', 'promise')
# Each as by `python -m`, in one process, since all import JAX.
STARTS = """
import importlib, sys
sys.path.insert(0, {root!r})
from benchmarks import command
def start(*words):
  sys.argv = ['benchmark', *words]
  try:
    command.start(module.main)
  except SystemExit as ended:
    print(words, ended.code, flush=True)
  print(end='\\n', file=sys.stderr, flush=True)
missing = {{name: sys.modules.pop(name, None) for name in ('onnxruntime', 'torch')}}
sys.modules.update(dict.fromkeys(missing))
module = importlib.import_module('benchmarks.{name}')
start('--help')
start({words})
for name in missing:
  del sys.modules[name]
start({words})
"""


@pytest.mark.parametrize('name', STARTED)
def test_help_needs_no_extras_and_bad_input_is_one_line(name: str, tmp_path: pathlib.Path):
  missing = tmp_path / 'no' / 'run'
  word = f'--workdir={missing}' if name in WITH_FOLDERS else '--no_such_flag=1'
  script = STARTS.format(root=str(ROOT), name=name, words=repr(word))
  done = subprocess.run(
    [sys.executable, '-c', script], cwd=tmp_path, capture_output=True, text=True, check=True
  )
  assert done.stdout.rstrip().endswith(f"('{word}',) 2\n('{word}',) 2"), done
  help_text, end, _ = done.stdout.partition("('--help',) 0\n")
  assert end
  assert f'python -m benchmarks.{name}' in help_text
  assert '\nFlags:\n' in help_text
  assert '--json: ' in help_text
  # An empty line ends what each start says.
  said, without, whole = done.stderr.split('\n\n')[0], *done.stderr.strip('\n').split('\n\n')
  del said
  assert without.count('\n') == whole.count('\n') == 0
  if name.startswith('onnx'):
    assert without == (
      'error: onnxruntime is not installed, which this benchmark needs: '
      "pip install 'dpoq_jax[onnx]'."
    )
  named = str(missing) if name in WITH_FOLDERS else 'no-such-flag'
  assert whole.startswith('error: ')
  assert named in whole


@pytest.mark.parametrize(
  ('name', 'words', 'said'),
  [
    ('onnx_runtime', ('--pretrained=digits_resnet8', '--bits=2,4'), '--bits is for the untrained'),
    ('onnx_runtime', ('--data-dir=there',), 'are for a network: give --workdir or --pretrained'),
    ('cascade', ('--pretrained=digits_resnet8', '--batch-sizes=512'), 'give 1 to 360, the test'),
    ('input_pipeline', ('--images=32',), 'give two batches at least'),
    ('train_step', ('--pytorch=Eager',), 'give eager, compiled or both'),
  ],
)
def test_flags_that_would_be_ignored_or_measure_nothing_are_refused(
  name: str, words: tuple[str, ...], said: str
):
  done = subprocess.run(
    [sys.executable, '-m', f'benchmarks.{name}', *words],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 2
  assert said in done.stderr
  assert done.stderr.count('\n') == 1


def test_every_benchmark_is_started_so():
  scripts = [
    path.stem
    for path in (ROOT / 'benchmarks').glob('*.py')
    if "__name__ == '__main__'" in path.read_text()
  ]
  assert sorted(scripts) == STARTED
