from collections.abc import Callable
from typing import Any

import jax
import pytest

from dpoq_jax.runtime import compiler

YNN = 'xla_cpu_experimental_ynn_fusion_type'


@pytest.fixture(autouse=True)
def _no_flags(monkeypatch: pytest.MonkeyPatch):
  monkeypatch.delenv('XLA_FLAGS', raising=False)


@pytest.mark.parametrize('options', [compiler.options, compiler.once_options])
def test_the_installed_xla_knows_every_setting(options: Callable[[str], dict[str, Any]]):
  # After an upgrade this fails, and what the setting was for is to be measured again.
  assert len(options('cpu')) == 1
  assert options('gpu') == options('tpu') == {}


def test_the_user_has_the_last_word(monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setenv('XLA_FLAGS', f'--{YNN}=LIBRARY_FUSION_TYPE_DOT')
  assert compiler.options('cpu') == {}
  assert compiler.once_options('cpu') != {}


@pytest.mark.parametrize(
  ('name', 'value'),
  [('xla_cpu_no_such_setting', True), (YNN, 'LIBRARY_FUSION_TYPE_OF_TOMORROW')],
)
def test_what_xla_does_not_know_is_found_out(name: str, value: object):
  assert not compiler.is_known(name, value)


def test_a_module_can_be_imported_before_the_backend_starts(monkeypatch: pytest.MonkeyPatch):
  with monkeypatch.context() as patch:
    patch.setattr(jax, 'default_backend', lambda: pytest.fail('the backend was started'))
    jitted = compiler.Jitted(lambda x, double: 2 * x if double else x, static_argnums=1)
  assert (jitted(3, True), jitted(3, False)) == (6, 3)
  assert jitted.jitted._cache_size() == 2


def test_inside_another_program_it_becomes_a_part_of_that():
  often, once = (compiler.Jitted(lambda x: 2 * x, runs_once=each) for each in (False, True))
  number = jax.numpy.int32(3)
  # Also of what was made outside.
  assert jax.jit(lambda x: often(x) + once(number))(number) == 12
  assert jax.eval_shape(once, number).dtype == number.dtype
  assert jax.vmap(once)(number[None]) == 6
