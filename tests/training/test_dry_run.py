"""What a dry run says of the time that a run will take."""

import itertools
import types
from unittest import mock

import numpy as np
import pytest

from dpoq_jax import config as config_lib
from dpoq_jax.training import dry_run


@pytest.mark.parametrize('steps', [1, 4])
def test_a_run_takes_all_its_steps_at_the_measured_speed(steps: int):
  """Dispatches of `steps` steps take 3 s, but for the first, which takes 100."""
  clock = itertools.chain([0.0], itertools.count(100.0, 3.0))
  dispatch = mock.MagicMock()
  dispatch.return_value = (None, np.zeros(()))
  dispatch.batches.return_value = mock.MagicMock()
  dispatch.batches.return_value.__iter__.side_effect = lambda: iter([(steps, None)] * 20)
  dispatch.program.cost_analysis.return_value = {'flops': 7.0}
  state = types.SimpleNamespace(params={'path_16': np.zeros(7), 'path_2': np.zeros(5)})
  prepared = types.SimpleNamespace(state=state, take_steps=dispatch, compile_seconds=2.0)
  dispatch.return_value = (state, np.zeros(()))
  experiment = types.SimpleNamespace(
    config=config_lib.Config(data=config_lib.Data(batch_size=64)),
    total_steps=1000,
    steps_per_epoch=10,
    train_set=range(640),
    test_set=range(64),
    mesh=types.SimpleNamespace(size=2),
    platform='cpu',
  )
  with (
    mock.patch.object(dry_run.preparation, 'prepare', return_value=prepared),
    mock.patch.object(dry_run.costs, 'peak_memory', return_value=11),
    mock.patch.object(dry_run.splits, 'whereabouts', return_value='here'),
    mock.patch.object(dry_run.time, 'perf_counter', side_effect=clock),
  ):
    measured = dry_run.measure(experiment)  # type: ignore[arg-type]
  assert measured.train_seconds == pytest.approx(1000 * 3 / steps)
  assert measured.examples_per_second == pytest.approx(64 * steps / 3)
  assert (measured.flops, measured.peak_bytes, measured.compile_seconds) == (7.0, 11, 2.0)
  assert list(measured.parameters.items()) == [('path_2', 5), ('path_16', 7)]
  assert measured.process_bytes > 10_000_000
  assert measured.run == {
    'model': 'resnet8, width 16',
    'bits': '2, 4, 8, 16; activations 8',
    'data': 'digits: 640 to train on, 64 to test on',
    'batch': '64 examples',
    'steps': '1,000: 30 epochs of 10',
    'devices': '2 cpu',
    'trained on': 'here',
    'reported on': 'here',
  }
