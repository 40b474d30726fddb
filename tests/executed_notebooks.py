"""Runs notebooks, once for all tests that look at what they show."""

import importlib.util
import pathlib
import sys
from types import ModuleType

import pytest

from tests import conftest
from tests.end_to_end import runs

ROOT = conftest.REPOSITORY

# What the tests look at of what a notebook leaves.
FACTS = {
  'onion_in_ten_minutes': """{
    'top1': [alone[b] for b in bits],
    'bytes': [size[b] for b in bits],
    'exits': sorted({int(b) for b in result.precisions}),
    'average_bits': [float(result.precisions.mean()), point.reported.average_bits],
    'accuracy': [float(correct.mean()), point.reported.accuracy],
    'cap': [float(cascade(examples.images, max_precision=b).precisions.max()) for b in bits],
  }""",
  'cifar10_on_a_gpu': """{
    'top1': [classifier.top1[b] for b in classifier.bits],
    'labels': len(labels),
    'capped': int(result.precisions.max()),
    'right': float(np.mean(result.labels == labels)),
    'committed': COMMITTED,
  }""",
  'your_own_images': """{
    'rows': rows,
    'shipped': sorted(path.name for path in pathlib.Path('shipped').iterdir()),
  }""",
  'deploy': """{
    'sizes': sizes,
    'files': [sum(path.stat().st_size for path in device.iterdir()), len(list(device.iterdir()))],
    'top1': [float(each) for each in accuracies],
    'known': [ring.top1 for ring in held.manifest.rings],
    'equal': float(np.mean(labels == labels_in_jax)),
    'exits': sorted({int(b) for b in exits}),
  }""",
}


def script(name: str) -> ModuleType:
  """A script of docs/scripts, which is no package."""
  spec = importlib.util.spec_from_file_location(name, ROOT / 'docs' / 'scripts' / f'{name}.py')
  assert spec
  assert spec.loader
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def folder(name: str, tmp_path_factory: pytest.TempPathFactory, *, short: bool) -> pathlib.Path:
  """Folder with the executed copy of a notebook, and with `facts.json`."""
  return conftest.once(
    tmp_path_factory,
    f'{name}_{"short" if short else "whole"}',
    lambda folder: _run(name, folder, short=short),
  )


def _run(name: str, folder: pathlib.Path, *, short: bool) -> None:
  """Runs a notebook, with all that it and Jupyter write in a folder."""
  # The command as an installation has it, whose folder need not be the environment's.
  command = folder / 'bin' / 'dpoq'
  command.parent.mkdir(parents=True)
  command.write_text(f'#!/bin/sh\nexec {sys.executable} -m dpoq_jax.cli.subcommands "$@"\n')
  command.chmod(0o755)
  with pytest.MonkeyPatch.context() as patch:
    for variable in ('JUPYTER_CONFIG_DIR', 'JUPYTER_DATA_DIR', 'JUPYTER_RUNTIME_DIR', 'IPYTHONDIR'):
      patch.setenv(variable, str(folder / variable))
    patch.setenv('PATH', str(command.parent), prepend=':')
    patch.setenv('PYTHONPATH', str(ROOT))
    patch.delenv('MPLBACKEND', raising=False)
    # Compiling takes longer than the little that is run.
    patch.setenv('XLA_FLAGS', runs.COMPILED_FAST)
    more = (f'import json; print(json.dumps({FACTS[name]}))',)
    # Raises what a cell raises: the assertions of the notebook are part of the test.
    executed = script('notebooks').run(name, folder, short=short, more=more)
  (folder / 'facts.json').write_text(executed.cells[-1].outputs[-1].text)
