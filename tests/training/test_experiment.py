"""What all processes of a run have to agree on before any of them trains."""

import pathlib
from typing import Any

import pytest

from dpoq_jax import config as config_lib
from dpoq_jax.runtime import processes
from dpoq_jax.training import experiment


@pytest.mark.parametrize(
  ('first', 'said'),
  [
    ({'test examples': 361}, 'test examples: 361 -> 360'),
    ({'classes': [*'1234567890']}, r"classes: \['1', .*'0'\] -> \['0', "),
  ],
)
def test_copies_of_a_data_set_that_differ_are_refused(
  first: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
):
  setup = experiment.build(config_lib.Config())
  experiment.check_same_data(setup)
  monkeypatch.setattr(processes, 'gathered', lambda ours: [{**ours, **first}, dict(ours)])
  with pytest.raises(config_lib.ConfigError, match=f'the processes differ in their data: {said}'):
    experiment.check_same_data(setup)


@pytest.mark.parametrize('memory_gb', [0.0, 1.0])
def test_only_images_in_memory_are_padded(jpeg_data_dir: pathlib.Path, memory_gb: float):
  data = {'name': 'tiny_imagenet', 'dir': str(jpeg_data_dir), 'image_size': 32, 'batch_size': 8}
  data |= {'memory_gb': memory_gb, 'pad': 4}
  setup = experiment.build(config_lib.Config(data=config_lib.Data(**data)))
  assert setup.padding == (4 if memory_gb else 0)
