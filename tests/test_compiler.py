import pytest

from dpoq_jax import compiler

YNN = 'xla_cpu_experimental_ynn_fusion_type'


@pytest.fixture(autouse=True)
def _no_flags(monkeypatch: pytest.MonkeyPatch):
  monkeypatch.delenv('XLA_FLAGS', raising=False)


def test_the_installed_xla_knows_every_setting():
  # After an upgrade this fails, and what the setting was for is to be measured again.
  assert list(compiler.options('cpu')) == [YNN]
  assert compiler.options('gpu') == {}
  assert compiler.options('gpu', devices=8) == {'xla_gpu_enable_latency_hiding_scheduler': True}
  assert compiler.options('tpu', devices=8) == {}


def test_the_user_has_the_last_word(monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setenv('XLA_FLAGS', f'--{YNN}=LIBRARY_FUSION_TYPE_DOT')
  assert compiler.options('cpu') == {}


@pytest.mark.parametrize(
  ('name', 'value'),
  [('xla_cpu_no_such_setting', True), (YNN, 'LIBRARY_FUSION_TYPE_OF_TOMORROW')],
)
def test_what_xla_does_not_know_is_found_out(name: str, value: object):
  assert not compiler.known(name, value)


def test_a_module_can_be_imported_before_the_backend_starts():
  started = []
  jitted = compiler.Jitted(lambda x: started.append(x) or x, static_argnums=())
  assert started == []
  assert jitted(3) == 3
  assert jitted.jitted._cache_size() == 1
