import importlib
import pathlib
import re
import sys
from unittest import mock

import pytest

from dpoq_jax import config as config_lib
from dpoq_jax.cli import flags as shared
from dpoq_jax.config import variants
from dpoq_jax.runtime import workdir
from tests.training.changed import changed

CONFIGS = sorted((pathlib.Path(__file__).parents[2] / 'dpoq_jax' / 'configs').glob('[!_]*.py'))


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'epoch': 3}, 'config.epoch: no such field; did you mean epochs?'),
    ({'data__bach_size': 3}, 'config.data.bach_size: no such field; did you mean data.batch_size?'),
    # A right name in the wrong section.
    ({'batch_size': 3}, 'config.batch_size: no such field; did you mean data.batch_size?'),
    ({'epochs': 0}, 'config.epochs=0: input should be greater than or equal to 1.'),
    (
      {'model__depth': 9},
      'config.model.depth=9: a network resnet has 6n+2 layers, 8 to 2000: next to 9 are 8 and 14.',
    ),
    ({'quantization__bits': (4, 2)}, 'config.quantization.bits=(4, 2): '),
    ({'quantization__bits': ()}, 'config.quantization.bits=(): '),
    (
      {'quantization__activation_bits': (2, 4)},
      'activation_bits=(2, 4): a tuple needs one entry f',
    ),
    (
      {'quantization__activation_bits': 'all'},
      "activation_bits='all': give a number of bits, or one for each precision, with commas",
    ),
    ({'objective__mode': 'scale'}, "config.objective.mode='scale': input should be 'scaled', "),
    ({'objective__loss_weights': (1.0,)}, 'objective.loss_weights=(1.0,) needs one entry for each'),
    ({'optimizer__learning_rate': float('nan')}, 'config.optimizer.learning_rate=nan: '),
    ({'optimizer__decay_epochs': (3.0, 2.0)}, 'config.optimizer.decay_epochs=(3.0, 2.0): epochs'),
    ({'optimizer__warmup_epochs': 30.0}, 'optimizer.warmup_epochs=30.0 must be below epochs=30'),
    ({'optimizer__transition_rate': 1.0}, 'config.optimizer.transition_rate=1.0: input should be '),
    ({'optimizer__latent_weight_decay': -1.0}, 'config.optimizer.latent_weight_decay=-1.0: input'),
    ({'objective__gradient_exponent': 0.0}, 'config.objective.gradient_exponent=0.0: input should'),
    ({'objective__companion_rings': 0}, 'config.objective.companion_rings=0: input should be gre'),
    ({'objective__companion_bits': (8, 4)}, 'config.objective.companion_bits=(8, 4): increasing'),
    ({'objective__companion_bits': (17,)}, 'companion_bits=(17,): increasing widths of 1 to 16 b'),
    (
      {'objective__companion_bits': (8,), 'objective__companion_rings': 5},
      'objective.companion_rings=5: bits=(2, 4, 8, 16) has 4 rings',
    ),
    ({'objective__draw_companion': True}, 'draw_companion=True needs companion_bits to draw from'),
    ({'objective__distillation': 1.5}, 'config.objective.distillation=1.5: input should be less'),
    (
      {'objective__distillation': 0.5, 'objective__teacher': 'companion'},
      'teacher=companion needs companion_bits, of a weight above 0, and all of them at every step',
    ),
    (
      {
        'objective__distillation': 0.5,
        'objective__teacher': 'companion',
        'objective__companion_bits': (8,),
        'objective__draw_companion': True,
      },
      'teacher=companion needs companion_bits, of a weight above 0, and all of them at every step',
    ),
    (
      {
        'objective__distillation': 0.5,
        'objective__teacher': 'companion',
        'objective__companion_bits': (8,),
        'objective__companion_weight': 0.0,
      },
      'teacher=companion needs companion_bits, of a weight above 0, and all of them at every step',
    ),
    (
      {'objective__distillation': 0.5, 'quantization__bits': (4,)},
      'objective.distillation=0.5: the only one of bits=(4,) has none to teach',
    ),
    (
      {'objective__distillation': 0.5, 'objective__teacher_start': 30.0},
      'objective.teacher_start=30.0 must be below epochs=30',
    ),
  ],
)
def test_bad_field_is_one_line_that_names_it(fields: dict, message: str):
  with pytest.raises(config_lib.ConfigError) as error:
    config_lib.validate(changed(**fields))
  assert message in str(error.value)
  assert '\n' not in str(error.value)


def test_fields_that_do_not_agree_are_all_that_is_named():
  fields = {'quantization': {'sharing': 'floored', 'weight_quantizer': 'standardised'}}
  with pytest.raises(config_lib.ConfigError) as error:
    config_lib.validate(fields)
  expected = 'config.quantization: sharing=floored has a quantizer of its own, not standardised.'
  assert str(error.value) == expected


def test_wrong_type_is_refused():
  fields = config_lib.get_config().to_dict() | {'epochs': '3'}
  with pytest.raises(config_lib.ConfigError, match=r"config\.epochs='3': input should be a valid"):
    config_lib.validate(fields)


def test_default_survives_a_round_trip_through_flags_and_files(tmp_path: pathlib.Path):
  config = config_lib.validate(config_lib.get_config())
  assert config == config_lib.Config()
  with workdir.claim(tmp_path, config):
    pass
  assert workdir.read_config(tmp_path) == config


@pytest.mark.parametrize(
  ('flag', 'expected'), [('4', 4), ('(2, 4, 8, 8)', (2, 4, 8, 8)), ('2,4,8,8', (2, 4, 8, 8))]
)
@pytest.mark.parametrize('file', ['', ':activations=match'])
def test_activation_bits_are_one_or_many_whatever_the_config_file_says(flag, expected, file):
  flags = shared.FlagValues()
  argv = [f'--config={CONFIGS[0].parent}/digits_resnet8.py{file}'] if file else []
  argv = ['train', *argv, f'--config.quantization.activation_bits={flag}']
  with mock.patch.object(sys, 'argv', argv):
    shared.define_config(flags)
    flags(argv)
  config = shared.parsed_config(flags)
  assert config.quantization.activation_bits == expected
  assert config_lib.from_json(config.model_dump_json()) == config


def test_workdir_of_another_config_is_refused_with_the_fields_that_differ(tmp_path: pathlib.Path):
  with workdir.claim(tmp_path, config_lib.Config()):
    pass
  other = config_lib.validate(changed(seed=1, optimizer__momentum=0.8))
  with pytest.raises(config_lib.ConfigError) as error, workdir.claim(tmp_path, other):
    pass
  assert 'seed: 0 -> 1; optimizer.momentum: 0.9 -> 0.8' in str(error.value)
  # Where the data lies is not what the run is; it is noted once the data are known to be the same.
  with workdir.claim(tmp_path, config_lib.validate(changed(data__dir='/elsewhere'))):
    pass
  assert workdir.read_config(tmp_path).data.dir is None


def test_workdir_is_one_process_at_a_time(tmp_path: pathlib.Path):
  config = config_lib.Config()
  refused = pytest.raises(BlockingIOError, match='another process trains in')
  with workdir.claim(tmp_path, config), refused, workdir.claim(tmp_path, config):
    pass


def test_variants_change_what_the_tables_vary():
  config = variants.apply(
    config_lib.get_config(), 'bits=2-8,activations=2,system=joint,merge=vanilla'
  )
  valid = config_lib.validate(config)
  assert valid.quantization.bits == (2, 8)
  assert valid.quantization.activation_bits == 2
  assert (valid.objective.mode, valid.quantization.merge) == ('joint', 'vanilla')
  with pytest.raises(ValueError, match='variant foo: there is no such part; there are model, '):
    variants.apply(config_lib.get_config(), 'foo')
  with pytest.raises(ValueError, match='variant activations=2: activations=32 is given, too'):
    variants.apply(config_lib.get_config(), 'bits=32,activations=32,model=resnet8,activations=2')


def variant(text: str) -> config_lib.Config:
  return config_lib.validate(variants.apply(config_lib.get_config(), text))


def test_systems_of_the_tables_are_variants():
  assert variant('system=individual,bits=4').quantization.bits == (4,)
  rounded = variant('system=shared,bits=2-4-6-8,activations=match')
  assert (rounded.quantization.sharing, rounded.objective.mode) == ('rounded', 'joint')
  assert rounded.quantization.activation_bits == (2, 4, 6, 8)
  assert variant('system=scaled,bits=2-4-8,activations=match').quantization.activation_bits == (
    2, 4, 8
  )  # fmt: skip
  assert variant('system=truncated,bits=2-8,activations=match').quantization.activation_bits == (8,)
  assert variant('system=shared_floor').quantization.sharing == 'floored'
  # In any order.
  truncated = variant('system=truncated,bits=2-4-8').quantization
  assert (truncated.bits, truncated.truncate_to) == ((8,), (2, 4))
  small = variant('smoke')
  assert (small.epochs, small.model.width, small.quantization.bits) == (1, 8, (2, 4))
  # What is said beside it holds, before it or after.
  small = variant('bits=2-4-8,smoke,width=4')
  assert (small.epochs, small.model.width, small.quantization.bits) == (1, 4, (2, 4, 8))
  for text, message in [
    ('system=onion', 'no such system'),
    ('system=jiont', 'no such system; did you mean joint'),
    ('smok', 'variant smok: there is no such part; did you mean smoke'),
    ('bits=2,4', 'a list is written bits=2-4-8'),
    ('model=resnet21', 'did you mean resnet20'),
    ('system=individual,bits=2-4', 'one precision, not'),
    ('system=shared,activations=foo', "variant activations=foo: 'foo' is no whole number"),
    ('bits=2-x', "variant bits=2-x: 'x' is no whole number"),
    ('bits=', "variant bits=: '' is no whole number"),
    ('width=1e3', "variant width=1e3: '1e3' is no whole number"),
    ('smoke=no', 'variant smoke=no: smoke has no setting'),
    ('model=vgg12', 'did you mean vgg11. Your own is written MODULE:CLASS'),
  ]:
    with pytest.raises(ValueError, match=message):
      variant(text)


def test_the_smallest_run_is_one_whatever_the_objective_is_made_of():
  config = changed(
    objective__companion_bits=(8,),
    objective__companion_rings=3,
    objective__distillation=0.5,
    objective__teacher_start=15.0,
    objective__loss_weights=(1.0, 1.0, 1.0, 2.0),
  )
  levers = config_lib.validate(variants.apply(config, 'smoke')).objective
  assert (levers.companion_rings, levers.teacher_start, len(levers.loss_weights)) == (2, 0.0, 2)


def test_a_model_of_ones_own_has_the_sizes_it_is_given():
  own = variant('model=some.module:Net')
  assert (own.model.name, own.model.depth, own.model.width) == ('some.module:Net', None, None)
  # It need not have a width, which is therefore not shrunk unless it is set.
  assert variant('model=module:Net,smoke').model.width is None
  assert variant('model=module:Net,width=16,smoke').model.width == 16
  with pytest.raises(config_lib.ConfigError, match=r'there are resnet, vgg, .*MODULE:CLASS'):
    config_lib.validate(changed(model__name='module.Net'))


@pytest.mark.parametrize(
  ('quantization', 'objective', 'message'),
  [
    ({'truncate_to': (2,)}, {}, 'increasing, and below the one precision'),
    ({'bits': (4,), 'truncate_to': (4,)}, {}, 'increasing, and below the one precision'),
    ({'bits': (4,), 'truncate_to': (2, 1)}, {}, 'increasing, and below the one precision'),
    ({'bits': (4,), 'truncate_to': (0, 2)}, {}, 'bits of codes, from 1'),
    ({'bits': (32,), 'truncate_to': (2,)}, {}, 'where 32 is a float network'),
    ({'bits': (16, 32), 'sharing': 'rounded'}, {'mode': 'joint'}, 'where 32 is a float network'),
    ({'sharing': 'rounded'}, {}, 'objective.mode=scaled: precisions that share'),
    ({'sharing': 'rounded', 'sum_logits': True}, {'mode': 'joint'}, 'only an onion has logits'),
    (
      {'sharing': 'floored', 'weight_quantizer': 'standardised'},
      {'mode': 'joint'},
      'has a quantizer of its own',
    ),
  ],
)
def test_systems_that_do_not_exist_are_refused(quantization, objective, message):
  with pytest.raises(config_lib.ConfigError, match=message):
    config_lib.validate({'quantization': quantization, 'objective': objective})


@pytest.mark.parametrize('quantization', [{'sharing': 'rounded'}, {'bits': (32,)}])
def test_levers_of_rings_are_refused_where_there_are_none(quantization):
  fields = {'quantization': quantization, 'objective': {'mode': 'joint'}}
  config_lib.validate(fields)
  with pytest.raises(
    config_lib.ConfigError, match=r'objective.companion_bits=\(8,\): only rings have companions'
  ):
    config_lib.validate({**fields, 'objective': {'mode': 'joint', 'companion_bits': (8,)}})
  with pytest.raises(config_lib.ConfigError, match=r'optimizer.transition_rate=0.01 is for rings'):
    config_lib.validate({**fields, 'optimizer': {'transition_rate': 0.01}})


def test_workdir_without_a_run_says_so(tmp_path: pathlib.Path):
  with pytest.raises(FileNotFoundError, match='holds no run'):
    workdir.read_config(tmp_path)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_config_file_is_valid_and_says_what_it_is_for(path: pathlib.Path):
  config_lib.validate(importlib.import_module(f'dpoq_jax.configs.{path.stem}').get_config())
  text = path.read_text()
  assert f'--config={path.stem}' in text
  # Filled in, not only promised; nobody knows what it is for images of one's own.
  expected, _, _ = text.partition('Expected')[2].partition('Cost:')
  assert re.search(r'\d\d\.\d', expected) or path.stem == 'own_images'
  assert re.search(r'Cost: [^"]*\d', text)


FIELDS = [
  (section, name)
  for section, fields in config_lib.get_config().to_dict().items()
  for name in (fields if isinstance(fields, dict) else [''])
]


@pytest.mark.parametrize(('section', 'name'), FIELDS)
def test_no_number_is_without_bounds(section: str, name: str):
  # Nor are entries of tuples: no field takes what would end in an overflow later.
  for number in (10**39, -(10**39), float('inf'), float('nan')):
    for value in (number, (number,)):
      fields = config_lib.get_config().to_dict()
      holder, key = (fields[section], name) if name else (fields, section)
      holder[key] = value
      with pytest.raises(config_lib.ConfigError):
        config_lib.validate(fields)


@pytest.mark.parametrize(
  ('fields', 'expected'),
  [
    ({'optimizer__decay_epochs': (3.0,)}, 'config.optimizer.decay_epochs=(3.0,) has no effect'),
    ({'optimizer__decay_factor': 0.5}, 'config.optimizer.decay_factor=0.5 has no effect'),
    ({'optimizer__schedule': 'steps', 'optimizer__decay_epochs': (3.0, 30.0)}, 'beyond (30.0,)'),
    ({'data__workers': 2}, 'config.data.workers=2 has no effect: it needs a streamed set'),
    ({'objective__teacher_start': 1.0}, 'config.objective.teacher_start=1.0 has no effect'),
    ({'objective__companion_weight': 0.5}, 'config.objective.companion_weight=0.5 has no effect'),
    (
      {'objective__companion_bits': (8,), 'objective__companion_weight': 0.0},
      'config.objective.companion_bits=(8,) has no effect: it needs objective.companion_weight abo',
    ),
    (
      {'quantization__bits': (32,), 'quantization__weight_quantizer': 'standardised'},
      'config.quantization.weight_quantizer=standardised has no effect: it needs quantization.bits',
    ),
    (
      {'quantization__calibrate_clips': True, 'quantization__clip_init': 1.0},
      'config.quantization.clip_init=1.0 has no effect',
    ),
    ({'quantization__bits': (4,), 'quantization__sum_logits': True}, 'several quantization.bits'),
    (
      {'quantization__bits': (4,), 'quantization__laterals': 'block_ends'},
      'config.quantization.laterals=block_ends has no effect: it needs several quantization.bits',
    ),
  ],
)
def test_a_field_without_effect_is_warned_of(fields: dict, expected: str):
  assert any(
    expected in each for each in config_lib.ineffective(config_lib.validate(changed(**fields)))
  )


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_no_config_file_has_a_field_without_effect(path: pathlib.Path):
  module = importlib.import_module(f'dpoq_jax.configs.{path.stem}')
  assert config_lib.ineffective(config_lib.validate(module.get_config())) == []
