"""Tests of `dpoq_jax.training.artifact_start`: a run that starts from an artifact."""

import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from dpoq_jax import config as config_lib
from dpoq_jax import pretrained
from dpoq_jax.configs import own_images
from dpoq_jax.core import quantizers
from dpoq_jax.data import corrupt_records, in_memory
from dpoq_jax.deploy.artifact import rings
from dpoq_jax.network import trees
from dpoq_jax.training import artifact_start, experiment, warm_start

START = 'pretrained:cifar10_resnet8'
NAMES = ('a', 'b', 'c', 'd', 'e')
ARTIFACT = rings.load(pretrained.folder('cifar10_resnet8'))


def build(
  names: tuple[str, ...] = NAMES, variant: str = '', **fields: Any
) -> experiment.Experiment:
  """What starts from the pretrained network, on images of `names`."""
  config = own_images.get_config(f'size=32,model=resnet8,{variant}'.rstrip(','))
  config.update_from_flattened_dict({'init_from': START, **fields})
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (64, 32, 32, 3), np.uint8)
  data = in_memory.ImageSet(images, np.arange(64, dtype=np.int32) % len(names), names, 'train')
  checked = config_lib.validate(config)
  return experiment.assemble(checked, data, data, data.take(np.arange(0)), corrupt_records.Tally(0))


@pytest.mark.parametrize('width', [1, 2, 4, 8])
@pytest.mark.parametrize(
  'quantize',
  [
    quantizers.dorefa,
    quantizers.standardised,
    quantizers.standardised_least_error,
    quantizers.standardised_per_channel,
  ],
)
def test_the_quantizer_makes_the_codes_again(quantize: quantizers.WeightQuantizer, width: int):
  drawn = np.random.default_rng(width).normal(0, 0.1, (3, 3, 16, 8)).astype(np.float32)
  kernel = np.asarray(quantize(jax.numpy.asarray(drawn), width)).astype(np.uint16)
  latents = artifact_start.latents(kernel, (width,), 0, quantize)
  np.testing.assert_array_equal(quantize(jax.numpy.asarray(latents), width), kernel)
  # As large as fresh ones, by whose schedule they are trained.
  assert 0.9 < latents.std() / np.sqrt(2 / (9 * 16)) < 1.1


def test_the_pretrained_network_is_had_again_bit_for_bit():
  setup = build(ARTIFACT.manifest.class_names)
  state, fixed = warm_start.initial_state(setup)
  # Trained on, all of it.
  assert fixed == 0
  frozen = jax.jit(setup.network.freeze)(jax.device_get(state.variables))
  assert frozen.keys() == ARTIFACT.variables.keys()
  for part, expected in ARTIFACT.variables.items():
    found = {name: frozen[part][name] for name in expected}
    jax.tree.map(np.testing.assert_array_equal, expected, found)


def test_other_classes_have_a_fresh_classifier():
  setup = build()
  state, _ = warm_start.initial_state(setup)
  fresh = setup.create_state()
  for precision in (2, 4, 8):
    path = f'path_{precision}'
    theirs, ours = ARTIFACT.variables['params'][path], state.params[path]
    assert ours['head']['kernel'].shape == (64, 5)
    np.testing.assert_array_equal(ours['head']['kernel'], fresh.params[path]['head']['kernel'])
    for layer in ('stem', 'stage3_block1'):
      leaves = trees.flatten(theirs).items()
      for name, leaf in leaves:
        if name[0] == layer:
          np.testing.assert_array_equal(trees.flatten(ours)[name], leaf)
  # Companions start as their paths do.
  companion = state.params['companion_2_8']['stem']['norm']
  np.testing.assert_array_equal(
    companion['scale'], ARTIFACT.variables['params']['path_2']['stem']['norm']['scale']
  )


def test_as_many_classes_of_other_names_have_a_fresh_classifier():
  names = tuple(f'class {number}' for number in range(10))
  setup = build(names)
  state, _ = warm_start.initial_state(setup)
  theirs = ARTIFACT.variables['params']['path_2']['head']['kernel']
  assert np.abs(np.asarray(state.params['path_2']['head']['kernel']) - theirs).max() > 1e-3


@pytest.mark.parametrize(
  ('variant', 'started'), [('bits=2-4', (2, 4)), ('bits=2-4-8-12', (2, 4, 8))]
)
def test_fewer_or_more_rings_start_from_those_there_are(variant: str, started: tuple[int, ...]):
  setup = build(variant=variant)
  state, fixed = warm_start.initial_state(setup)
  assert fixed == 0
  for precision in setup.network.bits:
    path = f'path_{precision}'
    found = np.asarray(state.params[path]['stem']['norm']['scale'])
    # Fresh ones are all 1.
    assert (np.abs(found - 1).max() > 0) == (precision in started)
    assert (path in ARTIFACT.variables['params']) == (precision <= 8)


@pytest.mark.parametrize(
  ('variant', 'fields', 'message'),
  [
    ('bits=4-8', {}, r'its bits \(2, 4, 8\) do not begin \(4, 8\), nor the other way round'),
    ('', {'model.depth': 14}, r'holds another network \(model: resnet8 -> resnet14\)'),
    ('', {'quantization.merge': 'vanilla'}, r'\(quantization\.merge: psbn -> vanilla\)'),
    (
      '',
      {'quantization.laterals': 'block_ends'},
      r'\(quantization\.laterals: every_layer -> block_ends\)',
    ),
    ('', {'quantization.activation_bits': 4}, r'\(quantization\.activation_bits: 8 -> 4\)'),
    ('', {'init_from': 'pretrained:cifar'}, 'no pretrained network cifar: '),
    ('', {'init_from': '/nowhere'}, '/nowhere: there is no such folder'),
  ],
)
def test_what_does_not_fit_is_refused(variant: str, fields: dict[str, Any], message: str):
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    warm_start.check(build(variant=variant, **fields))


def test_another_width_is_refused():
  with pytest.raises(config_lib.ConfigError, match=r'model\.width is 16 there'):
    warm_start.initial_state(build(variant='width=8'))


def test_an_artifact_is_found_by_its_folder(tmp_path: pathlib.Path):
  assert artifact_start.folder(str(pretrained.folder('cifar10_resnet8'))) is not None
  assert artifact_start.folder(str(tmp_path)) is None


def test_what_comes_from_an_artifact_is_moved_to_other_floats_too():
  state, _ = warm_start.initial_state(build(variant='bits=2', rounding_seed=1))
  found = trees.flatten(state.params['path_2'])
  theirs = trees.flatten(ARTIFACT.variables['params']['path_2'])
  for name in theirs.keys() - {('head', 'kernel'), ('head', 'bias')}:
    before, after = np.asarray(theirs[name]), np.asarray(found[name])
    above, below = np.nextafter(before, np.inf), np.nextafter(before, -np.inf)
    assert ((after == above) | (after == below)).all(), name
