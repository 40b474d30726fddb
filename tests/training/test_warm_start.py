"""Tests of `dpoq_jax.training.warm_start`: which runs a ring may be added to."""

import pathlib
from typing import Any

import numpy as np
import pytest

from dpoq_jax import config as config_lib
from dpoq_jax.data import corrupt_records, in_memory
from dpoq_jax.runtime import workdir
from dpoq_jax.training import experiment, warm_start

BETWEEN_PATHS = ('merge=vanilla', 'laterals=block_ends', 'sum_logits=True')


def config(bits: tuple[int, ...], field: str = '', **fields: Any) -> config_lib.Config:
  """A config of the smallest network, with a field of `quantization` as a flag would set it."""
  name, _, value = field.partition('=')
  given: dict[str, Any] = {name: value == 'True' if name == 'sum_logits' else value}
  return config_lib.Config(
    model=config_lib.Model(depth=8, width=4),
    quantization=config_lib.Quantization(bits=bits, **(given if name else {})),
    **fields,
  )


def start(
  source: config_lib.Config,
  folder: pathlib.Path,
  classes: tuple[str, ...] = ('a', 'b'),
  **fields: Any,
) -> None:
  """Checks that a run can start from one of the config `source`, trained on `classes`."""
  images = np.zeros((64, 8, 8, 3), np.uint8)
  data = in_memory.ImageSet(images, np.zeros(64, np.int32), ('a', 'b'), 'train')
  (folder / 'checkpoints' / '1').mkdir(parents=True)
  (folder / workdir.CONFIG_FILE).write_text(source.model_dump_json())
  workdir.write_dataset(folder, workdir.DatasetFacts((8, 8, 3), classes))
  started = config(**fields, init_from=str(folder))
  none = data.take(np.arange(0))
  warm_start.check(experiment.assemble(started, data, none, data, corrupt_records.Tally(0)))


@pytest.mark.parametrize('field', BETWEEN_PATHS)
def test_a_run_of_one_precision_leaves_open_how_paths_are_to_meet(
  tmp_path: pathlib.Path, field: str
):
  start(config((2,)), tmp_path / 'run', bits=(2, 4), field=field)


@pytest.mark.parametrize('field', BETWEEN_PATHS)
def test_a_run_of_several_does_not(tmp_path: pathlib.Path, field: str):
  with pytest.raises(config_lib.ConfigError, match=r'another network \(quantization\.\w+: [^;]*\)'):
    start(config((2, 4)), tmp_path / 'run', bits=(2, 4, 8), field=field)


@pytest.mark.parametrize('bits', [(2,), (2, 4)])
@pytest.mark.parametrize('field', ['weight_quantizer=standardised', 'compute_dtype=bfloat16'])
def test_what_each_path_is_made_of_stays(tmp_path: pathlib.Path, bits: tuple[int, ...], field: str):
  name, _, value = field.partition('=')
  with pytest.raises(config_lib.ConfigError, match=f'quantization.{name}: \\w+ -> {value}'):
    start(config(bits), tmp_path / 'run', bits=(2, 4, 8), field=field)


def test_companions_and_teachers_of_fixed_paths_alone_are_refused(tmp_path: pathlib.Path):
  def added(name: str, bits: tuple[int, ...], **objective: Any) -> None:
    fields = config_lib.Objective(**objective)
    start(config((2, 4)), tmp_path / name, bits=bits, objective=fields)

  with pytest.raises(config_lib.ConfigError, match=r'companion_rings=2: the 2 lowest paths are'):
    added('run', (2, 4, 8), companion_bits=(8,), companion_rings=2)
  added('all', (2, 4, 8), companion_bits=(8,), companion_rings=None)
  added('three', (2, 4, 8), companion_bits=(8,), companion_rings=3)
  with pytest.raises(config_lib.ConfigError, match=r'distillation=0.5: .* the highest has none to'):
    added('taught', (2, 4, 8), distillation=0.5)
  # Of two rings that are added the higher teaches the lower.
  added('two', (2, 4, 8, 16), distillation=0.5)


def test_paths_that_stay_keep_their_classes(tmp_path: pathlib.Path):
  with pytest.raises(config_lib.ConfigError, match='other classes, or in another order'):
    start(config((2,)), tmp_path / 'ring', ('b', 'a'), bits=(2, 4))
  # All paths are trained on.
  start(config((32,)), tmp_path / 'float', ('b', 'a'), bits=(2, 4))


@pytest.mark.parametrize('bits', [(2,), (32,)])
def test_examples_that_the_other_run_may_have_seen_are_warned_of(
  tmp_path: pathlib.Path, bits: tuple[int, ...]
):
  def begin(name: str, seed: int = 0, **data: Any) -> None:
    other = config(bits, data=config_lib.Data(holdout=4))
    start(other, tmp_path / name, bits=(2, 4), seed=seed, data=config_lib.Data(**data))

  begin('same', holdout=4)
  begin('none held out', seed=1)
  for name, seed, data, said in (
    ('more', 0, {'holdout': 8}, 'data.holdout: 4 -> 8'),
    ('others', 1, {'holdout': 4}, 'seed: 0 -> 1'),
    ('a part', 0, {'train_split': 'train[:9%]'}, r'data.train_split: train -> train\[:9%\]'),
  ):
    with pytest.warns(UserWarning, match=rf'was trained on other examples \({said}\)'):
      begin(name, seed, **data)
