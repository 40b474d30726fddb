"""Commands as a user meets them: what they print, write and exit with."""

import json
import pathlib
import re
import shutil
import subprocess

import jax
import pytest

from tests.end_to_end import runs


def evaluate(workdir: pathlib.Path, *flags: str) -> subprocess.CompletedProcess[str]:
  return runs.command('evaluate', f'--workdir={workdir}', *flags)


def assert_one_line(refused: tuple[int, str], expected: str) -> None:
  status, err = refused
  assert status == 2
  assert err.count('\n') == 1, err
  assert expected in err


def test_evaluate_writes_the_table_that_training_wrote(
  uninterrupted: pathlib.Path, tmp_path: pathlib.Path
):
  copy = tmp_path / 'run'
  shutil.copytree(uninterrupted, copy)
  summary = json.loads((copy / 'summary.json').read_text())
  (copy / 'summary.json').unlink()
  result = evaluate(copy)
  assert result.returncode == 0, result.stderr
  assert json.loads((copy / 'summary.json').read_text()) == summary
  for row in summary['precisions'].values():
    assert f'{100 * row["top1"]:.2f}' in result.stdout
  # By hand: 8x8 images of 1 channel, 9 * 1 * 64 * 4 and 9 * 4 * 16 * 8 multiply-adds, times 8 bits,
  # times 2 and 4; the second path merges 64 * 4 + 16 * 8 numbers, times 8 * 8 bits.
  fields = ('bitops', 'lateral_bitops', 'relative_bitops')
  costs = [[row[field] for field in fields] for row in summary['precisions'].values()]
  assert costs == [[110_592, 0, 1.0], [245_760, 24_576, 245_760 / 110_592]]
  assert '0.000111 │        1 │' in result.stdout
  assert '0.000246 │     2.22 │' in result.stdout

  # The highest one, whose ensemble needs the paths below it too.
  result = evaluate(copy, '--precision=4')
  assert result.returncode == 0, result.stderr
  alone = json.loads((copy / 'summary_4_bits.json').read_text())
  assert alone['precisions'] == {'4': summary['precisions']['4']}


def test_evaluate_of_an_earlier_step_leaves_the_summary_alone(
  uninterrupted: pathlib.Path, tmp_path: pathlib.Path
):
  copy = tmp_path / 'run'
  shutil.copytree(uninterrupted, copy)
  before = (copy / 'summary.json').read_text()
  result = evaluate(copy, '--step=22')
  assert result.returncode == 0, result.stderr
  [row] = [r for r in runs.rows(copy) if r['kind'] == 'eval' and r['step'] == 22]
  earlier = json.loads((copy / 'summary_step_22.json').read_text())
  assert earlier['steps'] == 22
  assert {bits: r['top1'] for bits, r in earlier['precisions'].items()} == row['top1']
  assert (copy / 'summary.json').read_text() == before


@pytest.mark.parametrize(
  ('flags', 'expected'),
  [
    (['--precision=8'], 'precision 8: this network has (2, 4)'),
    (['--step=7'], 'has checkpoints [22, 44], not 7'),
    (['--step=x'], '--step=x: give the number of a checkpoint, or best'),
  ],
)
def test_evaluate_refuses_what_the_run_does_not_have(
  uninterrupted: pathlib.Path, flags: list[str], expected: str
):
  assert_one_line(runs.refused('evaluate', f'--workdir={uninterrupted}', *flags), expected)


def test_best_of_a_run_that_was_never_evaluated_is_an_error_not_the_newest(
  uninterrupted: pathlib.Path, tmp_path: pathlib.Path
):
  copy = tmp_path / 'run'
  shutil.copytree(uninterrupted, copy)
  (copy / 'metrics.jsonl').unlink()
  refused = runs.refused('evaluate', f'--workdir={copy}', '--step=best')
  assert_one_line(refused, 'has been evaluated yet')


def test_evaluate_without_a_run_says_so(tmp_path: pathlib.Path):
  refused = runs.refused('evaluate', f'--workdir={tmp_path / "nothing"}')
  assert_one_line(refused, 'there is no such folder')
  assert not (tmp_path / 'nothing').exists()


@pytest.mark.parametrize(
  ('flags', 'expected'),
  [
    (['--config.epoch=3'], 'did you mean epochs?'),
    (['--config.epochs=abc'], '--config.epochs=abc'),
    (['--config.quantization.bits=4,2'], 'bits=(4, 2)'),
    (['--config=nope.py'], '--config=nope.py: there is no such file'),
    (['--config=README.md'], 'README.md'),
    (['--config=cifar10_resnet20:foo'], 'variant foo: there is no such part; there are model, '),
    (['--config.dta.batch_size=3'], 'did you mean data.batch_size?'),
    (['--config.epochs.x=3'], 'config.epochs.x: no such field'),
    (['--wrkdir=x'], '--wrkdir: there is no such flag; did you mean --workdir?'),
    (['epochs=3'], "unexpected argument 'epochs=3'"),
    (
      ['--config.data.name=cifar10', '--config.data.dir={tmp}'],
      'run dpoq prepare cifar10 --data-dir={tmp}',
    ),
    (['--config.data.batch_size=5000'], 'batch_size=5000: a training batch has 1 to'),
  ],
)
def test_bad_input_is_one_line_and_leaves_no_trace(
  tmp_path: pathlib.Path, flags: list[str], expected: str
):
  workdir = tmp_path / 'run'
  given = [flag.format(tmp=tmp_path) for flag in flags]
  refused = runs.refused('train', f'--workdir={workdir}', *given)
  assert_one_line(refused, expected.format(tmp=tmp_path))
  assert not workdir.exists()


def test_batch_that_devices_cannot_share_is_one_line(tmp_path: pathlib.Path):
  status, _, err = runs.train(tmp_path / 'run', '--config.data.batch_size=66', devices=4)
  assert_one_line((status, err), 'batch_size=66 is not divisible by the 4 devices')


def test_workdir_of_another_run_is_refused(uninterrupted: pathlib.Path):
  flags = runs.flags('--config.seed=1')
  refused = runs.refused('train', f'--workdir={uninterrupted}', *flags)
  assert_one_line(refused, 'seed: 0 -> 1')


def test_diverging_run_stops_with_a_clear_error(tmp_path: pathlib.Path):
  flags = ('--config.optimizer.learning_rate=1e30', '--config.max_skipped_steps=3')
  status, _, err = runs.train(tmp_path, *flags, '--config.optimizer.warmup_epochs=0.0')
  assert status == 2
  assert err.count('\n') == 1, err
  assert 'not finite, more than config.max_skipped_steps=3' in err


def test_a_dry_run_says_what_training_takes_and_writes_nothing(tmp_path: pathlib.Path):
  workdir = tmp_path / 'run'
  # Optax's schedules compare integer steps with floats.
  with jax.numpy_dtype_promotion('standard'):
    done = runs.call('train', '--dry_run', f'--workdir={workdir}', *runs.flags())
  assert done.returncode == 0, done.stderr
  facts = dict(re.findall(r'│ (.*?) +│ +(.*?) +│', done.stdout))
  paths = [int(n.replace(',', '')) for name, n in facts.items() if 'path_' in name]
  assert len(paths) == 2
  assert int(facts['parameters, all'].replace(',', '')) == sum(paths)
  assert {
    'FLOPs of a step',
    'memory of a step on a device',
    'memory of the process at its peak',
    'model',
    'steps',
    'speed',
    'training',
  } <= set(facts)
  assert not workdir.exists()


def test_training_says_what_it_does_from_the_first_line_to_the_next_commands(
  tmp_path: pathlib.Path,
):
  """In a pipe, which has plain lines."""
  status, out, err = runs.train(tmp_path / 'run')
  assert (status, err) == (0, '')
  assert '\x1b' not in out
  lines = out.splitlines()
  assert lines[0].startswith('training ')
  assert lines[0].endswith(f' at 2, 4 bits on digits; the run is in {tmp_path / "run"}')
  assert lines[1].startswith('1,437 training examples; 360 test examples (test); 44 steps of 64 ')
  assert lines[2] == 'compiling the training step ...'
  assert re.fullmatch(r'compiled in \d+\.\d s', lines[3])
  at = lines.index(f'the run is in {tmp_path / "run"}; next:')
  assert lines[at + 1] == f'dpoq calibrate --workdir={tmp_path / "run"}'
  # A run that is over has nothing to compile.
  status, out, _ = runs.train(tmp_path / 'run')
  assert status == 0
  assert 'resuming from step 44 of 44' in out
  assert 'compil' not in out
