"""`calibrate` and `predict`, as a user runs them."""

import csv
import dataclasses
import json
import os
import pathlib
import shutil
from typing import Any

import numpy as np
from PIL import Image
import pytest

from dpoq_jax import from_run
from dpoq_jax.data import in_memory
from dpoq_jax.inference import calibration, cascade, operating_point
from dpoq_jax.runtime import workdir as workdir_lib
from dpoq_jax.training import experiment, trained_network
from tests.end_to_end import runs


@pytest.fixture
def run(uninterrupted: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
  return pathlib.Path(shutil.copytree(uninterrupted, tmp_path / 'run'))


def test_calibrate_then_predict(run, tmp_path):
  # Evaluation uses all devices there are.
  flags = (f'--workdir={run}', '--average-bits=3')
  done = runs.command('calibrate', *flags, devices=2, optimised=True)
  assert done.returncode == 0, done.stderr
  assert 'chosen on 180 of the 360 test examples' in done.stdout
  point: Any = operating_point.read(run)
  assert point.met
  assert point.expected.average_bits <= 3
  assert (point.expected.examples, point.reported.examples) == (180, 180)
  assert point.data.step == 44

  test_set = in_memory.load('digits', 'test')
  np.save(tmp_path / 'digits.npy', test_set.images)
  output = tmp_path / 'rows.jsonl'
  flags = (f'--workdir={run}', f'--images={tmp_path / "digits.npy"}', f'--output={output}')
  done = runs.call('predict', *flags)
  assert done.returncode == 0, done.stderr
  found = [json.loads(line) for line in output.read_text().splitlines()]
  loaded = trained_network.load(run)
  expected = cascade.Cascade(loaded.network, loaded.variables, point)(test_set.images)
  assert [row['label'] for row in found] == expected.labels.tolist()
  assert [row['precision'] for row in found] == expected.precisions.tolist()
  assert [row['class_name'] for row in found] == [str(label) for label in expected.labels]
  assert {row['precision'] for row in found} == {2, 4}
  # What was reported is what it does, on the half that it was reported on.
  known = trained_network.load(run).predict(test_set)
  _, reported = calibration.split(calibration.Examples(known.logits, known.labels, ''))
  right = expected.labels[reported] == test_set.labels[reported]
  assert right.mean() == point.reported.accuracy
  assert expected.precisions[reported].mean() == point.reported.average_bits

  # Parts of it, put one after the other, are the whole.
  whole = ''
  for part in ('1/2', '2/2'):
    done = runs.call('predict', *flags[:2], f'--shard={part}')
    assert done.returncode == 0, done.stderr
    whole += done.stdout
  rows = list(csv.DictReader(whole.splitlines()))
  assert [(row['input'], int(row['label']), int(row['precision'])) for row in rows] == [
    (str(number), row['label'], row['precision']) for number, row in enumerate(found)
  ]

  done = runs.call('predict', *flags, '--max-precision=2')
  assert done.returncode == 0, done.stderr
  capped = [json.loads(line) for line in output.read_text().splitlines()]
  assert {row['precision'] for row in capped} == {2}


def test_predict_passes_over_what_it_cannot_read(run, tmp_path):
  folder = tmp_path / 'images'
  folder.mkdir()
  test_set = in_memory.load('digits', 'test')
  for i in range(3):
    Image.fromarray(test_set.images[i, ..., 0]).save(folder / f'{i}.png')
  (folder / '1.png').write_bytes(b'broken')
  # Opened, it would be waited for.
  os.mkfifo(folder / '3.png')
  for name in ('a.heic', 'b.heic', 'notes.txt'):
    (folder / name).write_bytes(b'x')
  output = tmp_path / 'rows.csv'
  # No operating point is needed for one precision.
  flags = (f'--workdir={run}', f'--images={folder}', f'--output={output}')
  done = runs.call('predict', *flags, '--precision=4')
  assert done.returncode == 0, done.stderr
  said = '2 images labelled, 4.00 bits on average; 2 could not be read; '
  assert done.stderr.endswith(f'{said}3 files passed over (.heic 2, .txt 1).\n')
  with output.open(newline='') as file:
    found = list(csv.DictReader(file))
  assert [row['input'] for row in found] == ['0.png', '1.png', '2.png', '3.png']
  assert [bool(row['error']) for row in found] == [False, True, False, True]
  assert found[3]['error'] == '3.png is a FIFO, not a regular file.'
  logits = trained_network.load(run).predict(test_set).logits
  assert [int(found[i]['label']) for i in (0, 2)] == [logits[1, i].argmax() for i in (0, 2)]

  refused = runs.refused('predict', *flags, '--max-precision=3', '--precision=4')
  assert refused == (2, 'error: precision 3: this network has (2, 4).\n')
  assert sorted(path.name for path in tmp_path.iterdir()) == ['images', 'rows.csv', 'run']

  (folder / os.fsdecode(b'caf\xe9.png')).write_bytes((folder / '0.png').read_bytes())
  done = runs.call('predict', *flags, '--precision=4')
  assert done.returncode == 0, done.stderr
  assert b'\n"caf\xe9.png",' in output.read_bytes()
  (folder / os.fsdecode(b'caf\xe9.png')).unlink()

  (run / 'd.csv').mkdir()
  status, err = runs.refused('predict', *flags[:2], f'--output={run / "d.csv"}', '--precision=4')
  assert status == 2
  assert 'd.csv is a directory' in err

  for i in (0, 2):
    (folder / f'{i}.png').unlink()
  done = runs.call('predict', *flags, '--precision=4')
  assert done.returncode == 1
  assert done.stderr.splitlines()[-1] == 'error: none of 2 images could be read.'


def test_an_operating_point_of_another_network_is_refused(run, tmp_path):
  done = runs.call('calibrate', f'--workdir={run}', '--average-bits=3')
  assert done.returncode == 0, done.stderr
  np.save(tmp_path / 'x.npy', in_memory.load('digits', 'test').images[:2])
  flags = (f'--workdir={run}', f'--images={tmp_path / "x.npy"}')
  content = json.loads((run / operating_point.FILE).read_text())
  for change, message in (
    ({'step': 7}, 'has checkpoints [22, 44], not 7'),
    ({'dataset': 'mnist'}, 'was chosen on mnist, the network is for digits'),
  ):
    other = content | {'data': content['data'] | change}
    (tmp_path / 'other.json').write_text(json.dumps(other))
    other = f'--operating-point={tmp_path / "other.json"}'
    status, err = runs.refused('predict', *flags, other)
    assert status == 2
    assert message in err


def test_a_target_that_cannot_be_met_is_status_3(run):
  done = runs.call('calibrate', f'--workdir={run}', '--average-bits=1.5')
  assert done.returncode == 3
  assert done.stderr.startswith(
    'error: average_bits=1.5 cannot be met on the calibration examples, where 2 is the least; '
  )
  assert not operating_point.read(run).met
  assert json.loads((run / operating_point.FILE).read_text())['met'] is False
  np.save(run / 'x.npy', in_memory.load('digits', 'test').images[:2])
  done = runs.call('predict', f'--workdir={run}', f'--images={run / "x.npy"}')
  assert done.returncode == 0
  assert done.stderr.startswith('warning: this operating point did not meet its target')
  assert done.stdout.startswith('"input","label",')


def test_a_point_that_met_its_target_is_not_lost_to_one_that_does_not(run, tmp_path):
  own = run / operating_point.FILE
  assert runs.call('calibrate', f'--workdir={run}', '--average-bits=3').returncode == 0
  good = own.read_text()
  too_low = (f'--workdir={run}', '--average-bits=1.5')
  done = runs.call('calibrate', *too_low)
  assert done.returncode == 3
  assert done.stderr.count('\n') == 1
  assert f'; {own} is kept, as that point met its target: --output=FILE' in done.stderr
  assert 'written to' not in done.stdout
  assert own.read_text() == good
  # Elsewhere, and again, since what is there is no better.
  other = tmp_path / 'other.json'
  for _ in range(2):
    done = runs.call('calibrate', *too_low, f'--output={other}')
    assert done.returncode == 3
    assert f'the nearest point was written to {other}' in done.stderr
  assert not operating_point.read(other).met
  assert own.read_text() == good
  assert runs.call('calibrate', *too_low, '--force').returncode == 3
  assert own.read_text() == other.read_text()
  # One that does not meet its target is not shipped without a word either.
  done = runs.call('export', f'--workdir={run}', f'--output={tmp_path / "exported"}')
  assert done.returncode == 0, done.stderr
  assert done.stderr.startswith('warning: this operating point did not meet its target')
  # One that does takes its place.
  assert runs.call('calibrate', f'--workdir={run}', '--average-bits=3').returncode == 0
  assert own.read_text() == good


def test_a_promise_that_few_examples_cannot_show_is_status_3(run):
  done = runs.call('calibrate', f'--workdir={run}', '--confidence=0.9', '--max-accuracy-drop=0.001')
  assert done.returncode == 3
  (line,) = done.stderr.splitlines()
  assert line.startswith('error: max_accuracy_drop=0.001 cannot be promised with confidence=0.9: ')
  point: Any = operating_point.read(run)
  assert not point.met
  assert (point.promise.fitted_on, point.promise.bounded_on) == (36, 144)
  assert point.promise.bound > 0.001


def test_a_promise_is_reported_beside_what_is_hoped_for(run):
  flags = (f'--workdir={run}', '--confidence=0.8', '--max-accuracy-drop=0.2', '--split-seed=5')
  done = runs.call('calibrate', *flags)
  assert done.returncode == 0, done.stderr
  assert 'hoped for' in done.stdout
  assert 'static, all 360' in done.stdout
  point: Any = operating_point.read(run)
  assert point.promise.confidence == 0.8
  assert point.promise.drop <= point.promise.bound <= 0.2
  assert point.data.split_seed == 5
  # The report takes the halves that the point was chosen on.
  done = runs.call('report', f'--workdir={run}')
  assert (done.returncode, done.stderr) == (0, '')
  page = (run / 'report' / 'report.html').read_text()
  assert 'Promised, and hoped for' in page
  done = runs.call('report', f'--workdir={run}', '--split-seed=6')
  assert done.returncode == 0
  assert done.stderr.startswith('warning: this operating point was chosen on 180 of the 360 test')


@pytest.mark.parametrize(
  ('name', 'flags', 'message'),
  [
    ('calibrate', ['--confidence=0.9', '--average-bits=3'], 'only a max_accuracy_drop can be'),
    ('calibrate', ['--confidence=90'], 'confidence=90.0: give a number between 0 and 1'),
    ('calibrate', ['--max-accuracy-drop=1'], '--max-accuracy-drop=1: give a fraction below 1'),
    ('calibrate', ['--split-seed=-1'], '--split-seed'),
    ('calibrate', ['--average-bits=3', '--key=0.5'], '--average-bits and --key given'),
    ('calibrate', ['--key=high'], '--key=high: give a confidence, or BITS:CONFIDENCE'),
    ('calibrate', ['--key=5'], 'key=5.0: a key is a confidence'),
    ('calibrate', ['--relative-cost=nan'], '--relative-cost=nan: give a number'),
    ('calibrate', ['--order=any'], '--order'),
    ('predict', ['--images=none'], 'there is no none'),
    ('predict', ['--images=x', '--output=rows.txt'], 'ends in .csv or .jsonl'),
    ('predict', [f'--images={runs.REPOSITORY}/launch'], 'holds no image files'),
    ('predict', ['--images=x', '--shard=3/2'], '--shard=3/2: give I/N, I from 1 to N'),
    ('predict', ['--images=x', '--precision=2', '--operating-point=y'], 'in place of the other'),
    ('predict', [], 'give the paths of images'),
  ],
)
def test_bad_flags_are_one_line(uninterrupted, name, flags, message):
  status, err = runs.refused(name, f'--workdir={uninterrupted}', *flags)
  assert status == 2
  (line,) = err.splitlines()
  assert line.startswith('error: ')
  assert message in line


def test_predict_without_an_operating_point_says_how_to_choose_one(uninterrupted, tmp_path):
  np.save(tmp_path / 'x.npy', in_memory.load('digits', 'test').images[:2])
  flags = (f'--workdir={uninterrupted}', f'--images={tmp_path / "x.npy"}')
  status, err = runs.refused('predict', *flags)
  assert status == 2
  assert 'choose one with dpoq calibrate' in err


def test_held_out_examples_calibrate_and_are_not_trained_on(tmp_path):
  status, _, err = runs.train(tmp_path / 'run', '--config.data.holdout=300')
  assert status == 0, err
  setup = experiment.build(workdir_lib.read_config(tmp_path / 'run'))
  whole = in_memory.load('digits', 'train')
  assert (len(setup.train_set), len(setup.holdout_set)) == (len(whole) - 300, 300)
  together = np.concatenate([setup.train_set.images, setup.holdout_set.images])
  assert sorted(map(bytes, together)) == sorted(map(bytes, whole.images))
  done = runs.call('calibrate', f'--workdir={tmp_path / "run"}', '--split-seed=5')
  assert done.returncode in (0, 3), done.stderr
  assert '--split-seed has no effect: this run held examples out of training' in done.stderr
  point: Any = operating_point.read(tmp_path / 'run')
  assert point.data.calibration == '300 training examples held out of training'
  assert (point.expected.examples, point.reported.examples) == (300, 360)
  # Of more or fewer examples the same seed holds out others.
  trained = from_run.open_network(tmp_path / 'run')
  assert trained.example_counts['training examples'] == len(whole) - 300
  trained = dataclasses.replace(trained, example_counts={'training examples': len(whole) - 299})
  with pytest.raises(ValueError, match='others would be held out, that were trained on'):
    from_run.held_out(trained)
