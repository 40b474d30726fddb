"""The systems that the onion is compared with, trained and evaluated by the commands."""

import json
import pathlib

from tests.end_to_end import runs


def test_an_individual_network_is_reported_truncated_too(tmp_path: pathlib.Path):
  status, out, err = runs.train(tmp_path, '--config.quantization.truncate_to=2,4', bits='8')
  assert status == 0, err
  assert '2, truncated' in out
  summary = json.loads((tmp_path / 'summary.json').read_text())
  assert set(summary['precisions']) == {'8'}
  assert set(summary['truncated']) == {'2', '4'}
  for row in summary['truncated'].values():
    assert set(row) == {'top1', 'top1_reestimated'}
  # Two bits of eight, trained for none of it, are far below; renewed statistics help.
  whole, two = summary['precisions']['8']['top1'], summary['truncated']['2']
  assert two['top1'] < whole
  done = runs.command('evaluate', f'--workdir={tmp_path}')
  assert done.returncode == 0, done.stderr
  assert json.loads((tmp_path / 'summary.json').read_text())['truncated'] == summary['truncated']


def test_shared_kernels_train_and_are_no_onion(tmp_path: pathlib.Path):
  flags = ('--config.quantization.sharing=rounded', '--config.objective.mode=joint')
  status, _, err = runs.train(tmp_path, *flags)
  assert status == 0, err
  summary = json.loads((tmp_path / 'summary.json').read_text())
  assert set(summary['precisions']) == {'2', '4'}
  assert summary['precisions']['4']['top1'] > 0.2
  status, err = runs.refused('calibrate', f'--workdir={tmp_path}')
  assert status == 2
  assert err.startswith('error: the run in')
  assert 'is no onion' in err
  assert len(err.splitlines()) == 1
