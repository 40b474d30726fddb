"""Every config file: what it describes can be built, and takes a step when shrunk by `smoke`.

A file added to `dpoq_jax/configs/` is covered without a change here, unless its data is new: then
`DATA` needs an entry.
"""

import pathlib
import re
from typing import Any

from absl import flags
import jax
from ml_collections import config_flags
import numpy as np
import pytest

from dpoq_jax import config as config_lib
from dpoq_jax import configs
from dpoq_jax.network import from_config
from dpoq_jax.training import experiment
from dpoq_jax.training.train_step import make_train_step
from tests.fast import jit

# How ml_collections loads a config file.
pytestmark = pytest.mark.filterwarnings(
  r'ignore:the load_module\(\) method is deprecated:DeprecationWarning'
)

CONFIGS = [configs.find(name) for name in configs.names()]

DATA = {
  'digits': None,
  'cifar10': 'tiny_cifar10_data_dir',
  'cifar100': 'tiny_cifar100_data_dir',
  'imagenet2012': 'tiny_imagenet2012_data_dir',
  'own_images': 'own_images_data_dir',
}
"""By the name of a data set: the fixture that is a data directory with it; None if embedded."""

# Which take up to a minute to compile.
_DEEP = re.compile('mobilenet|vgg|imagenet')
# What shrinks to the network and the losses of another, and takes the same step at another rate.
LIKE = {
  'cifar10_resnet20': 'cifar10_resnet8_cpu',
  'cifar10_resnet20_plus': 'cifar10_resnet8_cpu_plus',
  'cifar100_resnet20': 'cifar10_resnet8_cpu',
}

SMOKE = [
  pytest.param(
    path,
    id=path.stem,
    marks=[pytest.mark.nightly] if path.stem in LIKE or _DEEP.search(path.stem) else [],
  )
  for path in CONFIGS
]

ONIONS = (*(f'system={name}' for name in ('scaled', 'joint', 'separate')), 'merge=vanilla')
VARIANTS = (
  *ONIONS,
  *(f'system={name}' for name in ('shared', 'shared_floor', 'truncated')),
  'system=individual,bits=4',
  'system=individual,bits=32,activations=32',
)
SYSTEMS = [
  pytest.param(path, variant, id=f'{path.stem}-{variant}')
  for path in CONFIGS
  # The recipe is one for onions.
  for variant in (ONIONS if path.stem.endswith(('_plus', 'own_images')) else VARIANTS)
]


def load(path: pathlib.Path, variant: str, **fields: Any) -> config_lib.Config:
  """The config as a command gets it, from `--config=FILE.py:variant` and flags for its fields."""
  overrides = [f'--config.{name.replace("__", ".")}={field}' for name, field in fields.items()]
  command = ['command', f'--config={path}:{variant}', *overrides]
  values = flags.FlagValues()
  config = config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=command)
  values(command)
  return config_lib.validate(config.value)


def changed(before: Any, after: Any) -> list[bool]:
  """Whether each leaf of a tree changed."""
  pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
  return [bool(np.any(old != new)) for old, new in pairs]


@pytest.mark.parametrize(('path', 'variant'), SYSTEMS)
def test_every_system_of_the_tables_is_a_variant(path: pathlib.Path, variant: str):
  network = from_config.build(load(path, variant), num_classes=10)
  assert network.bits == load(path, variant).quantization.bits


@pytest.mark.parametrize(('name', 'other'), LIKE.items())
def test_the_smoke_variant_is_that_of_another_but_for_data_and_rate(name: str, other: str):
  one, same = (load(configs.find(each), 'smoke').model_dump() for each in (name, other))
  for config in (one, same):
    del config['data']['name']
    for field in ('learning_rate', 'schedule'):
      del config['optimizer'][field]
  assert one == same


@pytest.mark.parametrize('path', SMOKE)
def test_a_step_of_the_smoke_variant_trains(path: pathlib.Path, request: pytest.FixtureRequest):
  name = load(path, 'smoke').data.name
  assert name in DATA, f'{path.name} trains on {name}: give DATA a fixture that provides it.'
  location = {'data__dir': request.getfixturevalue(DATA[name])} if DATA[name] else {}
  setup = experiment.build(load(path, 'smoke', **location))
  state, facts = setup.create_state(), setup.dataset_facts
  size, rng = setup.config.data.batch_size, np.random.default_rng(0)
  batch = {
    'image': rng.integers(0, 256, (size, *facts.image_shape), np.uint8),
    'label': rng.integers(0, len(facts.class_names), size, np.int32),
  }
  step = jit(make_train_step(setup.network, setup.optimizer, setup.config, padding=setup.padding))
  # Optax's schedules compare integer steps with floats.
  with jax.numpy_dtype_promotion('standard'):
    after, losses = step(state, jax.device_put(batch, setup.batch_sharding))
  assert len(losses) == len(setup.network.bits)
  assert np.all(np.isfinite(losses))
  assert int(after.skipped) == 0
  # Weight decay alone moves every parameter but those that start at 0.
  assert np.mean(changed(state.params, after.params)) > 0.9
  assert all(changed(state.collections, after.collections))


@pytest.mark.parametrize(
  ('variant', 'size', 'model', 'bits'),
  [
    ('', 64, ('resnet', 20), (2, 4, 8)),
    ('size=32', 32, ('resnet', 20), (2, 4, 8)),
    ('bits=2-4,size=127', 127, ('resnet', 20), (2, 4)),
    ('size=128', 128, ('imagenet_resnet', 18), (2, 4, 8)),
    ('size=224,bits=4-8', 224, ('imagenet_resnet', 18), (4, 8)),
    ('model=resnet8,size=160', 160, ('resnet', 8), (2, 4, 8)),
  ],
)
def test_the_model_suits_the_size_of_own_images(variant, size, model, bits):
  config = load(configs.find('own_images'), variant)
  assert (config.data.image_size, config.quantization.bits) == (size, bits)
  assert (config.model.name, config.model.depth) == model
