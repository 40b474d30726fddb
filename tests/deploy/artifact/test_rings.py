import functools
import math
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from dpoq_jax import onion
from dpoq_jax.deploy.artifact import in_jax, rings
from dpoq_jax.deploy.artifact import manifest as manifest_lib
from dpoq_jax.deploy.artifact.manifest import ArtifactError
from tests.deploy.conftest import IMAGES, TINY_NET, Frozen, frozen
from tests.tiny_model import TinyNet


@functools.lru_cache
def logits_of(network: Any) -> Any:
  """A function of variables to the logits of every precision, each path a program of its own."""
  paths = [
    jax.jit(functools.partial(network.run_path, index=k, images=IMAGES))
    for k in range(len(network.bits))
  ]

  def run(variables: Any) -> list[np.ndarray]:
    laterals: dict[str, Any] = {}
    logits = []
    for path in paths:
      output = path(variables, laterals=laterals)
      laterals |= output.laterals
      logits.append(np.asarray(output.logits))
    return logits

  return run


def test_logits_are_those_of_the_network_after_every_upgrade(trained: Frozen, folder: pathlib.Path):
  whole = logits_of(trained.network)(trained.variables)
  read = rings.load(folder, max_bits=2)
  for count, bits in enumerate([(2,), (2, 4), (2, 4, 8)], start=1):
    assert read.bits == bits
    network = in_jax.network_of(read)
    assert network.bits == bits
    for expected, found in zip(whole, logits_of(network)(read.variables), strict=False):
      np.testing.assert_array_equal(found, expected)
    if count < 3:
      read.upgrade()
  with pytest.raises(ValueError, match='no ring above 8 bits'):
    read.upgrade()
  for a, b in zip(jax.tree.leaves(read.variables), jax.tree.leaves(trained.variables), strict=True):
    np.testing.assert_array_equal(a, b, strict=True)


@pytest.mark.parametrize(
  ('bits', 'quantization'),
  [
    ((3,), {}),
    ((1, 4, 20), {'merge': 'vanilla', 'weight_quantizer': 'standardised'}),
    ((2, 4), {'activation_bits': (2, 4)}),
    ((2, 4), {'laterals': 'block_ends'}),
    ((32,), {'activation_bits': 32}),
  ],
)
def test_any_bit_list_comes_back(bits, quantization, tmp_path: pathlib.Path):
  example = frozen(bits, **quantization)
  rings.write(tmp_path, example.variables, **example.known)
  read = rings.load(tmp_path)
  assert in_jax.network_of(read) == example.network
  lowest = in_jax.network_of(rings.load(tmp_path, max_bits=bits[0]))
  assert lowest == example.network.lowest(1)
  flat = jax.tree_util.tree_leaves_with_path
  for (name, a), (other, b) in zip(flat(read.variables), flat(example.variables), strict=True):
    assert name == other
    np.testing.assert_array_equal(a, b, strict=True)


def test_summed_logits_come_back_bit_for_bit(tmp_path: pathlib.Path):
  example = frozen((2, 4, 8), TINY_NET, sum_logits=True)
  manifest = rings.write(tmp_path, example.variables, **example.known)
  assert manifest.quantization.sum_logits
  assert [ring.floats.get('params/logit_scale') for ring in manifest.rings] == [None, (), ()]
  # An individual network has no logits below.
  apart = frozen((2, 4, 8), TINY_NET)
  plain = rings.write(tmp_path / 'apart', apart.variables, **apart.known)
  assert [manifest.separate_bytes(k) for k in range(3)] == [
    plain.separate_bytes(k) for k in range(3)
  ]
  whole = logits_of(example.network)(example.variables)
  unscaled = logits_of(apart.network)(apart.variables)
  assert not np.array_equal(whole[1], unscaled[1])
  for count, bits in enumerate([2, 4, 8], start=1):
    read = rings.load(tmp_path, max_bits=bits)
    network = in_jax.network_of(read, TinyNet)
    assert network == example.network.lowest(count)
    for expected, found in zip(whole, logits_of(network)(read.variables), strict=False):
      np.testing.assert_array_equal(found, expected)


def test_nothing_of_companions_is_written(tmp_path: pathlib.Path):
  example = frozen((2, 4), TINY_NET, companion_bits=(8,))
  rings.write(tmp_path / 'with', example.variables, **example.known)
  alone = frozen((2, 4), TINY_NET)
  rings.write(tmp_path / 'without', alone.variables, **alone.known)
  for path in (tmp_path / 'without').iterdir():
    written = (tmp_path / 'with' / path.name).read_bytes()
    assert written == path.read_bytes()
    assert b'companion' not in written


def test_prefixes_take_their_bits_and_floats_and_little_more(trained: Frozen, folder: pathlib.Path):
  manifest = manifest_lib.read(folder)
  taken = floats = 0
  for count, ring in enumerate(manifest.rings, start=1):
    taken += (folder / ring.file).stat().st_size
    floats += 4 * sum(math.prod(shape) for shape in ring.floats.values())
    weights = sum(kernel.size for kernel in jax.tree.leaves(trained.variables['onion']))
    assert manifest.weights == weights
    assert taken <= ring.precision * weights / 8 + floats + 4096 * count
  # Floats are those of the paths, no kernel among them.
  of_network = sum(
    leaf.size
    for name, tree in trained.variables.items()
    if name != 'onion'
    for leaf in jax.tree.leaves(tree)
  )
  assert floats == 4 * of_network


def test_a_prefix_touches_no_byte_of_the_other_rings(copy: pathlib.Path):
  (copy / 'ring_8.safetensors').unlink()
  read = rings.load(copy, max_bits=7)
  assert read.bits == (2, 4)
  before = jax.tree.map(np.copy, read.variables)
  with pytest.raises(ArtifactError, match=r'ring_8\.safetensors cannot be read: No such file'):
    read.upgrade()
  # An upgrade that fails changes nothing.
  assert read.bits == (2, 4)
  jax.tree.map(np.testing.assert_array_equal, read.variables, before)
  with pytest.raises(ValueError, match='max_bits=1'):
    rings.load(copy, max_bits=1)


def test_the_same_network_gives_the_same_files(trained: Frozen, folder: pathlib.Path, tmp_path):
  rings.write(tmp_path, trained.variables, top1={2: 0.5, 4: 0.6, 8: 0.7}, **trained.known)
  for path in folder.iterdir():
    assert (tmp_path / path.name).read_bytes() == path.read_bytes()
  with pytest.raises(FileExistsError, match='give another folder'):
    rings.write(tmp_path, trained.variables, **trained.known)


def test_rings_are_the_integers_of_the_onion(trained: Frozen, folder: pathlib.Path):
  read = rings.load(folder, max_bits=4)
  kernel = trained.variables['onion']['stem']['conv']['kernel']
  np.testing.assert_array_equal(
    read.variables['onion']['stem']['conv']['kernel'],
    onion.truncate(kernel, trained.network.bits, to=4),
  )


def test_a_network_apart_takes_what_its_artifact_would(folder: pathlib.Path, tmp_path):
  alone = frozen((8,))
  written = rings.write(tmp_path, alone.variables, **alone.known)
  (ring,) = written.rings
  tensors = written.code_bytes(0) + 4 * ring.float_count
  assert manifest_lib.read(folder).separate_bytes(2) == tensors
