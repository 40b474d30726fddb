"""Disks that are full or may only be read, and files of a run that do not belong together."""

import dataclasses
import json
import pathlib
import shlex
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from dpoq_jax.config import ConfigError
from dpoq_jax.data import in_memory
from dpoq_jax.inference import operating_point
from dpoq_jax.runtime import workdir
from dpoq_jax.training import checkpoint, preparation, trained_network
from dpoq_jax.training import experiment as experiment_lib
from tests.end_to_end import runs, test_resume


@pytest.fixture
def copy(uninterrupted: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
  """A run to be changed."""
  return pathlib.Path(shutil.copytree(uninterrupted, tmp_path / 'run'))


def mount(folder: pathlib.Path, size: str) -> str:
  """Returns a command that mounts a small disk."""
  return f'mount -t tmpfs -o size={size} none {shlex.quote(str(folder))}'


@pytest.fixture
def isolated(tmp_path: pathlib.Path) -> list[str]:
  """The start of a command in a mount namespace, where any user may have a disk of any size."""
  start = ['unshare', '--user', '--map-root-user', '--mount', 'sh', '-c']
  if subprocess.run([*start, mount(tmp_path, '1m')], check=False).returncode:
    pytest.skip('no disk can be mounted here')
  return start


def test_a_full_disk_is_one_line_and_the_run_goes_on_once_there_is_room(
  isolated: list[str], uninterrupted: pathlib.Path, tmp_path: pathlib.Path
):
  train = shlex.join([
    *(sys.executable, '-m', 'dpoq_jax.train', f'--workdir={tmp_path}/run'),
    *runs.flags('--config.checkpoint_every=3'),
  ])  # fmt: skip
  script = f"""
    set -e
    {mount(tmp_path, '210k')}
    status=0
    {train} || status=$?
    echo status $status
    {mount(tmp_path, '8m,remount')}
    {train}
    cp -r {shlex.quote(str(tmp_path))}/run "$KEPT"
  """
  kept = uninterrupted.parent / f'{tmp_path.name}_kept'
  environment = {**runs.environment(), 'KEPT': str(kept)}
  done = subprocess.run(
    [*isolated, script],
    cwd=runs.REPOSITORY, env=environment, text=True, capture_output=True, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert 'status 4\n' in done.stdout
  assert done.stderr.count('\n') == 1, done.stderr
  assert 'No space left on device' in done.stderr
  assert 'is saved: run the same command again to go on.' in done.stderr
  test_resume.assert_same_run(kept, uninterrupted)
  shutil.rmtree(kept)


def test_arrays_still_being_written_when_a_save_fails_print_nothing(
  isolated: list[str], tmp_path: pathlib.Path
):
  # Each of them ends in a thread of its own after the save has failed, between two saves.
  script = f"""
import contextlib, pathlib, time
import jax
from dpoq_jax.training import checkpoint
state = {{str(i): jax.random.normal(jax.random.key(i), 2000) for i in range(120)}}
with contextlib.closing(checkpoint.Checkpoints(pathlib.Path('{tmp_path}/run'))) as checkpoints:
  for step in range(4):
    checkpoints.save(state, {{}}, step=step)
    time.sleep(1)
"""
  command = f'{mount(tmp_path, "2600k")} && {shlex.join([sys.executable, "-c", script])}'
  done = subprocess.run(
    [*isolated, command], cwd=runs.REPOSITORY, text=True, capture_output=True, check=False
  )
  assert 'StorageError' in done.stderr
  assert 'Event loop is closed' not in done.stderr


@pytest.mark.parametrize(
  ('flags', 'expected'),
  [
    (['--config.data.pad=99999999999999999999'], 'data.pad=99999999999999999999: input should be'),
    (['--config.data.pad=8'], 'config.data.pad=8: a crop could hold nothing of an image'),
    (['--config.epochs=2000000'], 'config.epochs=2000000: input should be less than or equal to'),
    (['--config.model.width=100000000'], 'model.width=100000000: input should be'),
    (['--config.init_from={run}'], 'no checkpoint in {run}/checkpoints can be read'),
    (['--config.init_from={bare}'], 'the run in {bare} has no checkpoint yet'),
  ],
)
def test_a_config_that_cannot_run_claims_no_workdir(
  copy: pathlib.Path, tmp_path: pathlib.Path, flags: list[str], expected: str
):
  for step in (22, 44):
    test_resume.truncate_arrays(copy / 'checkpoints' / str(step))
  bare = tmp_path / 'bare'
  bare.mkdir()
  for name in ('config.json', 'dataset.json'):
    shutil.copy(copy / name, bare / name)
  given = [flag.format(run=copy, bare=bare) for flag in flags]
  workdir = tmp_path / 'new'
  status, err = runs.refused('train', f'--workdir={workdir}', *runs.flags(*given, bits='2,4,8'))
  assert status == 2
  assert expected.format(run=copy, bare=bare) in err
  assert err.count('error:') == 1
  assert not workdir.exists()


def test_a_network_larger_than_memory_is_refused_before_it_is_made(copy: pathlib.Path):
  setup = experiment_lib.build(trained_network.load_latents(copy).config)
  model = setup.config.model.model_copy(update={'name': 'resnet', 'depth': 8, 'width': 2**14})
  config = setup.config.model_copy(update={'model': model})
  with pytest.raises(ConfigError, match=r'takes at least [0-9,.]+ GB of memory, a device has'):
    preparation.prepare(experiment_lib.build(config))


def test_damage_in_the_middle_of_the_log_is_one_line_in_every_command(copy: pathlib.Path):
  path = copy / 'metrics.jsonl'
  lines = path.read_text().splitlines()
  path.write_text('\n'.join([*lines[:3], '{"step": 5}', *lines[4:]]) + '\n')
  before = path.read_bytes()
  np.save(copy / 'x.npy', np.zeros((1, 8, 8, 1), np.uint8))
  flags = {
    'train': runs.flags(),
    'predict': [f'--images={copy / "x.npy"}', '--precision=2'],
    'export': [f'--output={copy / "exported"}'],
  }
  for name in ('train', 'evaluate', 'predict', 'export', 'report'):
    status, err = runs.refused(name, f'--workdir={copy}', *flags.get(name, []))
    assert status == 2, (name, err)
    assert err.count('\n') == 1, err
    assert f'{path}, line 4, is no row of metrics' in err
  assert path.read_bytes() == before


@pytest.mark.parametrize(
  ('name', 'section', 'field', 'value'),
  [
    ('config.json', 'quantization', 'weight_quantizer', 'standardised'),
    ('config.json', 'quantization', 'activation_bits', 4),
    ('config.json', 'optimizer', 'momentum', 0.5),
    ('dataset.json', None, 'class_names', list('9876543210')),
  ],
)
def test_a_checkpoint_is_not_read_by_the_files_of_another_run(
  copy: pathlib.Path, name: str, section: str | None, field: str, value: object
):
  content = json.loads((copy / name).read_text())
  (content[section] if section else content)[field] = value
  (copy / name).write_text(json.dumps(content))
  with pytest.raises(checkpoint.CheckpointError, match=f'are of another run than its .*{field}'):
    trained_network.load(copy)


@pytest.mark.parametrize('other', ['classes', 'examples'])
def test_a_run_given_other_data_neither_goes_on_nor_changes(
  copy: pathlib.Path, other: str, monkeypatch: pytest.MonkeyPatch
):
  load = in_memory.load

  def changed(*arguments: Any) -> in_memory.ImageSet:
    found = load(*arguments)
    if other == 'examples':
      return found.take(np.arange(len(found) - 1))
    return dataclasses.replace(found, class_names=found.class_names[::-1])

  monkeypatch.setattr(in_memory, 'load', changed)
  files = [copy / name for name in ('config.json', 'dataset.json')]
  before = [file.read_bytes() for file in files]
  elsewhere = f'--config.data.dir={copy}'
  status, err = runs.refused('train', f'--workdir={copy}', *runs.flags(), elsewhere)
  assert status == 1
  said = {'classes': "class_names: ('0', '1'", 'examples': 'training examples: 1437 -> 1436'}
  assert f'was trained otherwise, or on other data ({said[other]}' in err
  assert [file.read_bytes() for file in files] == before
  if other == 'classes':
    status, err = runs.refused('evaluate', f'--workdir={copy}')
    assert status == 2
    assert '10 classes; those trained on were (8, 8, 1) of 10, or of other names' in err


def test_a_run_that_goes_on_notes_where_its_data_are_now(copy: pathlib.Path):
  here = f'--config.data.dir={copy}'
  assert runs.status_of('train', f'--workdir={copy}', *runs.flags(), here) == 0
  assert workdir.read_config(copy).data.dir == str(copy)


def test_a_run_that_cannot_be_written_is_evaluated_all_the_same(copy: pathlib.Path):
  # As where one may not write; the tests may run as root, who may.
  (copy / 'summary.json').unlink()
  (copy / 'summary.json').mkdir()
  done = runs.call('evaluate', f'--workdir={copy}')
  assert done.returncode == 2
  assert 'step 44' in done.stdout
  assert f'{copy}/summary.json is a directory' in done.stderr
  done = runs.call('evaluate', f'--workdir={copy}', f'--output={copy / "other.json"}')
  assert done.returncode == 0, done.stderr
  assert json.loads((copy / 'other.json').read_text())['steps'] == 44


def test_a_checkpoint_that_the_operating_point_is_not_of_is_warned_of(copy: pathlib.Path):
  from dpoq_jax import from_run

  point = operating_point.static((2, 4), 4, (16, 33))
  chosen = operating_point.Provenance(dataset='digits', step=44, calibration='x', reported='y')
  point = point.model_copy(update={'data': chosen})
  with pytest.warns(UserWarning, match='was chosen for step 44, this is step 22'):
    from_run.open_network(copy, 22, point)


@pytest.mark.parametrize('drop', ['1', '1.5', 'inf', 'nan', '-0.1'])
def test_a_drop_is_a_fraction(copy: pathlib.Path, drop: str):
  status, err = runs.refused('calibrate', f'--workdir={copy}', f'--max-accuracy-drop={drop}')
  assert status == 2
  assert '--max-accuracy-drop=' in err
  assert err.count('\n') == 1
