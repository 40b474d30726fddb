import functools
import hashlib
import importlib
import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpoq_jax.deploy import stablehlo
from tests.conftest import REPOSITORY, once
from tests.deploy.conftest import IMAGES, TINY_NET, Frozen, frozen
from tests.deploy.rewriting import rewritten
from tests.fast import jit
from tests.pages import run_blocks


@pytest.fixture(scope='module')
def exported(tmp_path_factory: pytest.TempPathFactory, trained: Frozen) -> pathlib.Path:
  def make(path: pathlib.Path) -> None:
    known = {key: trained.known[key] for key in ('image_shape', 'class_names')}
    stablehlo.write(path, trained.network, trained.variables, source={'step': 7}, **known)

  return once(tmp_path_factory, 'stablehlo', make)


def test_programs_read_back_are_the_network(trained: Frozen, exported: pathlib.Path):
  programs = stablehlo.read(exported)
  assert programs.manifest['bits'] == [2, 4, 8]
  expected = jit(trained.network.apply)(trained.variables, IMAGES)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)

  @jit
  def chain(images):
    laterals, logits = {}, []
    for path in programs.paths:
      own, handed_up = path.call(images, laterals)
      laterals |= handed_up
      logits.append(own)
    return jnp.stack(logits), laterals

  # Batches of any size, of one image included.
  for count in (4, 1):
    logits, laterals = chain(IMAGES[:count])
    close(logits, expected[:, :count])
  # The highest path, too, so that it is compiled as one below others is.
  assert {name: bool(handed_up) for name, handed_up in laterals.items()} == {
    'lateral_2': True, 'lateral_4': True, 'lateral_8': True,
  }  # fmt: skip
  for precision, wanted in zip(programs.precisions, expected, strict=True):
    close(jit(precision.call)(IMAGES), wanted)


def test_laterals_at_the_ends_of_blocks_are_all_that_programs_exchange(tmp_path: pathlib.Path):
  example = frozen((2, 4), TINY_NET, laterals='block_ends')
  stablehlo.write(
    tmp_path, example.network, example.variables, (8, 8, 3), class_names=tuple('abcde')
  )
  programs = stablehlo.read(tmp_path)
  jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})
  expected = jit(example.network.apply)(example.variables, IMAGES)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
  lowest, laterals = jit(programs.paths[0].call)(IMAGES, {})
  close(lowest, expected[0])
  assert set(laterals['lateral_2']) == {'conv'}
  close(jit(programs.paths[1].call)(IMAGES, laterals)[0], expected[1])


def test_summed_logits_are_handed_up(tmp_path: pathlib.Path):
  example = frozen((2, 4), TINY_NET, sum_logits=True)
  stablehlo.write(
    tmp_path, example.network, example.variables, (8, 8, 3), class_names=tuple('abcde')
  )
  programs = stablehlo.read(tmp_path)
  expected = jit(example.network.apply)(example.variables, IMAGES)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
  lowest, laterals = jit(programs.paths[0].call)(IMAGES, {})
  close(lowest, expected[0])
  close(laterals['lateral_2']['logits'], expected[0])
  close(jit(programs.paths[1].call)(IMAGES, laterals)[0], expected[1])
  more = {**laterals['lateral_2'], 'logits': 0 * lowest}
  alone, _ = jit(programs.paths[1].call)(IMAGES, {'lateral_2': more})
  np.testing.assert_allclose(expected[1] - alone, 0.7 * lowest, rtol=1e-4, atol=1e-4)
  for precision, wanted in zip(programs.precisions, expected, strict=True):
    close(jit(precision.call)(IMAGES), wanted)


def test_nothing_of_companions_is_written(tmp_path: pathlib.Path):
  # From the same lines, whose numbers are in the programs.
  for name, companion_bits in (('with', (8,)), ('without', ())):
    example = frozen((2, 4), TINY_NET, companion_bits=companion_bits)
    stablehlo.write(
      tmp_path / name, example.network, example.variables, (8, 8, 3), class_names=tuple('abcde')
    )
  for path in (tmp_path / 'without').iterdir():
    assert (tmp_path / 'with' / path.name).read_bytes() == path.read_bytes()


def test_programs_are_for_every_platform(exported: pathlib.Path):
  programs = stablehlo.read(exported)
  for program in (*programs.paths, *programs.precisions):
    assert program.platforms == ('cpu', 'cuda', 'tpu')


def test_a_program_holds_no_bits_of_higher_precisions(trained: Frozen):
  held = stablehlo._held(trained.network, trained.variables, 1)
  for kernel, whole in zip(
    jax.tree.leaves(held['onion']), jax.tree.leaves(trained.variables['onion']), strict=True
  ):
    np.testing.assert_array_equal(kernel, whole & 0xF0, strict=True)


def test_programs_run_without_this_library(exported: pathlib.Path, tmp_path: pathlib.Path):
  np.save(tmp_path / 'images.npy', IMAGES)
  code = """
import pathlib, sys
import jax.export, numpy as np
program = jax.export.deserialize(bytearray(pathlib.Path(sys.argv[1]).read_bytes()))
logits, laterals = program.call(np.load(sys.argv[2]), {})
print(logits.shape, sorted(laterals), 'dpoq_jax' in sys.modules, 'flax' in sys.modules)
"""
  arguments = [exported / 'path_2.stablehlo', tmp_path / 'images.npy']
  done = subprocess.run(
    [sys.executable, '-I', '-c', code, *arguments], text=True, capture_output=True, check=True
  )
  assert done.stdout.split('\n')[0] == "(4, 5) ['lateral_2'] False False"


def test_nothing_tells_where_it_was_exported(exported: pathlib.Path):
  for file in exported.iterdir():
    content = file.read_bytes()
    for path in (str(REPOSITORY), sys.prefix, '.py', str(pathlib.Path.home())):
      assert path.encode() not in content, (file.name, path)
  # Programs of others are made as before.
  config: Any = jax.config
  assert config.jax_traceback_in_locations_limit != 0


def test_what_is_no_program_is_refused(exported: pathlib.Path, tmp_path: pathlib.Path):
  for file in exported.iterdir():
    (tmp_path / file.name).write_bytes(file.read_bytes())
  for content in (b'', b'no program', bytes(1000)):
    (tmp_path / 'path_2.stablehlo').write_bytes(content)
    forged = {'bytes': len(content), 'sha256': hashlib.sha256(content).hexdigest()}
    rewritten(tmp_path, lambda m, forged=forged: m['paths'][0].update(forged))
    with pytest.raises(ValueError, match=r'path_2\.stablehlo is no StableHLO program'):
      stablehlo.read(tmp_path)


def test_altered_files_and_latents_are_refused(
  trained: Frozen, exported: pathlib.Path, folder: pathlib.Path, tmp_path: pathlib.Path
):
  with pytest.raises(ValueError, match='not the manifest of StableHLO programs'):
    stablehlo.read(folder)
  for file in exported.iterdir():
    (tmp_path / file.name).write_bytes(file.read_bytes())
  (tmp_path / 'path_4.stablehlo').write_bytes(b'')
  with pytest.raises(ValueError, match=r'path_4\.stablehlo was altered'):
    stablehlo.read(tmp_path)
  with pytest.raises(FileExistsError, match='give another folder'):
    stablehlo.write(tmp_path, trained.network, trained.variables, (8, 8, 3), class_names=())
  with pytest.raises(ValueError, match='freeze them first'):
    stablehlo.write(tmp_path / 'new', trained.network, {'params': {}}, (8, 8, 3), class_names=())


def test_the_page_about_reading_them_runs(exported: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
  monkeypatch.chdir(exported.parent)
  link = exported.parent / 'shipped_stablehlo'
  link.symlink_to(exported)
  np.save(exported.parent / 'images.npy', np.zeros((3, 8, 8, 3), np.uint8))
  try:
    left = run_blocks(REPOSITORY / 'docs' / 'how_to' / 'run_stablehlo.md')
  finally:
    link.unlink()
  assert left['logits'].shape == left['every'].shape == (3, 5)
  # An untrained network is sure of nothing.
  np.testing.assert_allclose(left['higher'], left['every'], rtol=1e-4, atol=1e-4)
  assert 'stablehlo' in left['text']


def test_inspect_shows_the_programs(exported: pathlib.Path, capsys: pytest.CaptureFixture[str]):
  inspect = importlib.import_module('dpoq_jax.inspect.__main__')
  inspect.main(None, str(exported))
  shown = capsys.readouterr().out
  assert 'StableHLO graphs' in shown
  for stem in ('path', 'precision'):
    for bits in (2, 4, 8):
      size = (exported / f'{stem}_{bits}.stablehlo').stat().st_size
      assert f'{size:,}' in shown
      assert f'{stem}_{bits}.stablehlo: here' in shown
