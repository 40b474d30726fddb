import json
import os
import pathlib
import subprocess
import sys

import pytest

from dpoq_jax.runtime import compilation_cache
from tests.end_to_end import runs

VARIABLE = 'JAX_COMPILATION_CACHE_DIR'

# `train` as a user starts it, and what JAX has to say of its cache.
COUNTED = """
import collections, json, sys
from dpoq_jax.runtime import compilation_cache
compilation_cache.turn_on()
import jax
counts = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: counts.update([event.split('/')[-1]]))
from dpoq_jax import train
from dpoq_jax.cli.run import run
try:
  run(train.define_flags, train.main)
finally:
  print(json.dumps(counts))
"""


def counted_training(workdir: pathlib.Path, cache: pathlib.Path) -> dict[str, int]:
  process = subprocess.run(
    [
      *(sys.executable, '-c', COUNTED),
      *(f'--workdir={workdir}', *runs.flags()),
    ],
    cwd=runs.REPOSITORY,
    env={
      **{k: v for k, v in runs.environment().items() if k != VARIABLE},
      'XDG_CACHE_HOME': str(cache),
      # Also what is compiled in no time, so that the counts do not depend on the machine.
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    },
    text=True,
    capture_output=True,
    check=True,
    timeout=600,
  )
  return json.loads(process.stdout.splitlines()[-1])


def test_a_second_start_compiles_nothing_and_trains_the_same(tmp_path: pathlib.Path):
  first = counted_training(tmp_path / 'first', tmp_path / 'cache')
  assert first['cache_misses'] > 0
  second = counted_training(tmp_path / 'second', tmp_path / 'cache')
  assert second['cache_hits'] >= first['cache_misses']
  assert 'cache_misses' not in second
  assert runs.rows(tmp_path / 'second') == runs.rows(tmp_path / 'first')
  assert runs.results(tmp_path / 'second') == runs.results(tmp_path / 'first')


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path):
  # Set first, so that what is set meanwhile is undone, too.
  monkeypatch.setenv(VARIABLE, '')
  monkeypatch.delenv(VARIABLE)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  compilation_cache.turn_on()
  directory = pathlib.Path(os.environ[VARIABLE])
  assert directory.is_dir()
  assert directory.parent == tmp_path / 'dpoq_jax'
  # A relative path is to be ignored.
  monkeypatch.setenv('XDG_CACHE_HOME', 'cache')
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  assert compilation_cache.cache_directory().parent == tmp_path / 'home' / '.cache' / 'dpoq_jax'


def test_a_directory_of_ones_own_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path):
  monkeypatch.setenv(VARIABLE, str(tmp_path / 'mine'))
  compilation_cache.turn_on()
  assert os.environ[VARIABLE] == str(tmp_path / 'mine')


def test_no_place_for_it_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path):
  # Set first, so that what is set meanwhile is undone, too.
  monkeypatch.setenv(VARIABLE, '')
  monkeypatch.delenv(VARIABLE)
  (tmp_path / 'file').touch()
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
  compilation_cache.turn_on()
  assert VARIABLE not in os.environ
