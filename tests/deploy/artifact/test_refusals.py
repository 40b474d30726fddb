"""Artifacts that lie, or are damaged, or are none: refused in one line."""

import hashlib
import importlib
import pathlib
import random
import tracemalloc
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy

from dpoq_jax.deploy import graph_folder
from dpoq_jax.deploy.artifact import in_jax, rings
from dpoq_jax.deploy.artifact.manifest import ArtifactError
from tests.deploy.conftest import Frozen
from tests.deploy.rewriting import rewritten


def set_ring(index: int, **fields: Any) -> Any:
  return lambda content: content['rings'][index].update(fields)


def longer_kernel(content: Any) -> None:
  content['kernels']['stem/conv/kernel'][-1] += 1


def swapped_kernels(content: Any) -> None:
  kernels = content['kernels']
  one, other = 'stage1_block1/conv1/conv/kernel', 'stem/conv/kernel'
  kernels[one], kernels[other] = kernels[other], kernels[one]


def transposed_kernel(content: Any) -> None:
  content['kernels']['stem/conv/kernel'].reverse()


@pytest.mark.parametrize(
  ('change', 'expected'),
  [
    (
      lambda c: c.update(format=2),
      r'manifest\.json is of format 2; this version reads 1: upgrade it',
    ),
    (lambda c: c.update(format='1'), 'not the manifest of an artifact'),
    (lambda c: c.update(extra=1), 'extra: Extra inputs'),
    (lambda c: c.pop('kernels'), 'kernels: Field required'),
    (set_ring(0, file='../ring_2.safetensors'), r'rings\.0\.file'),
    (set_ring(0, file='/etc/passwd'), r'rings\.0\.file'),
    (set_ring(0, file='ring_4.safetensors'), 'two rings are one file'),
    (set_ring(0, bytes=10**15), r'rings\.0\.bytes'),
    (set_ring(0, bytes=10**9), 'bytes are not what its tensors take'),
    (set_ring(0, bytes=10), 'bytes are not what its tensors take'),
    (set_ring(0, precision=3), 'the rings are not those of bits'),
    (set_ring(0, floats={}), 'it holds'),
    (set_ring(0, floats={'params/a': [2**39, 2**39]}), 'bytes are not what its tensors take'),
    (set_ring(0, floats={'params/a': [-1]}), r'rings\.0\.floats'),
    (set_ring(0, floats={'params': [1]}), r'rings\.0\.floats'),
    (set_ring(0, floats={'onion/a': [1]}), r'rings\.0\.floats'),
    (set_ring(0, floats={'params/a\nb': [1]}), r'rings\.0\.floats'),
    (set_ring(0, floats={'params/a\x9bb': [1]}), r'rings\.0\.floats.*printable'),
    (set_ring(0, floats={'params/' + 'a' * 250: [1]}), r'rings\.0\.floats.*256 letters'),
    (set_ring(0, floats={'params' + '/a' * 16: [1]}), r'rings\.0\.floats.*up to 16 parts'),
    (set_ring(0, floats={f'params/{i}': [1] for i in range(2**16 + 1)}), 'at most 65536 items'),
    (lambda c: c['kernels'].update({'a/' * 105_000 + 'a': [1]}), 'kernels.*up to 16 parts'),
    (set_ring(0, floats={'params/a': [1], 'params/a/b': [1]}), 'params/a is a tensor and holds'),
    (lambda c: c['kernels'].update(stem=[1]), 'stem is a tensor and holds others'),
    (lambda c: c['model'].update(width=10**30), 'model.width: Input should be less than'),
    (set_ring(0, sha256='0' * 64), r'ring_2\.safetensors: it was altered'),
    (longer_kernel, r'ring_2\.safetensors: it holds'),
    (swapped_kernels, 'tensors are not those of a resnet8'),
    (transposed_kernel, 'tensors are not those of a resnet8'),
    (lambda c: c['quantization'].update(activation_bits=0), 'activation'),
    (lambda c: c['quantization'].update(bits=[4, 2]), r'quantization\.bits'),
    (lambda c: c['quantization'].update(merge='chain'), r'quantization\.merge'),
    (lambda c: c['model'].update(depth=9), r'model\.depth'),
    # Refused before its layers are traced, of which there are millions.
    (lambda c: c['model'].update(depth=6_000_002), r'model\.depth'),
    (lambda c: c['model'].update(depth=14), 'tensors are not those of a resnet14'),
    # No module that a file names is imported.
    (lambda c: c['model'].update(name='antigravity:Net'), 'give model=antigravity:Net'),
    (lambda c: c['class_names'].pop(), 'tensors are not those of a resnet8'),
    (lambda c: c.update(operating_points=[{'bits': [2]}]), 'an operating point is for'),
  ],
)
def test_manifests_that_lie_are_refused(change, expected, copy: pathlib.Path):
  rewritten(copy, change)
  with pytest.raises(ArtifactError, match=expected) as refused:
    in_jax.network_of(rings.load(copy))
  assert str(copy) in str(refused.value)
  assert '\n' not in str(refused.value)


@pytest.mark.parametrize('index', [0, 2])
def test_a_ring_without_floats_is_refused_as_any_other(index: int, copy: pathlib.Path):
  ring = copy / f'ring_{(2, 4, 8)[index]}.safetensors'
  tensors = safetensors.numpy.load_file(ring)
  content = safetensors.numpy.save({**tensors, 'floats': np.zeros(0, np.float32)})
  ring.write_bytes(content)
  forged = {'bytes': len(content), 'sha256': hashlib.sha256(content).hexdigest(), 'floats': {}}
  rewritten(copy, set_ring(index, **forged))
  with pytest.raises(ArtifactError, match='tensors are not those of a resnet8'):
    in_jax.network_of(rings.load(copy))


def test_a_small_manifest_takes_little_memory(copy: pathlib.Path):
  # All prefixes of such names are gigabytes.
  deep = {f'params/{i}' + '/a' * 20_000: [1] for i in range(5)}
  rewritten(copy, set_ring(0, floats=deep))
  assert (copy / 'manifest.json').stat().st_size < 250_000
  tracemalloc.start()
  with pytest.raises(ArtifactError, match=r'rings\.0\.floats') as refused:
    rings.load(copy)
  assert tracemalloc.get_traced_memory()[1] < 50e6
  tracemalloc.stop()
  # The name is not repeated in full.
  assert len(str(refused.value)) < 2000


def test_the_writer_refuses_what_the_reader_would(trained: Frozen, tmp_path: pathlib.Path):
  for names, reason in (('abcde', 'class_names'), ((), 'a network has kernels and classes')):
    folder = tmp_path / str(len(names))
    with pytest.raises(ArtifactError, match=reason):
      rings.write(folder, trained.variables, **{**trained.known, 'class_names': names})
    assert not (folder / 'manifest.json').exists()
  kernels = {'onion': {'x' * 300: trained.variables['onion']}}
  with pytest.raises(ArtifactError, match='256 letters'):
    rings.write(tmp_path / 'long', {**trained.variables, **kernels}, **trained.known)


HOSTILE = '[/bold] [red]\x1b[2J\x9b31m\u202e\r\n:smile:'


def test_what_a_manifest_says_is_shown_and_not_obeyed(copy: pathlib.Path, capsys):
  rewritten(copy, lambda c: c['source'].update(dataset=HOSTILE))
  command = importlib.import_module('dpoq_jax.inspect.__main__')
  command.main(None, str(copy))
  shown = capsys.readouterr().out
  assert '[/bold] [red]' in shown
  assert ':smile:' in shown
  assert all(c.isprintable() for c in shown.replace('\n', ''))


@pytest.mark.parametrize(
  'text',
  [
    '', '{', '[]', '{"format": 1}', '1' * 5000, '[' * 100_000, '\udcff', '{"format": NaN}',
    # The manifest of an ONNX export.
    '{"format": 1, "bits": [2], "paths": []}',
  ],
)  # fmt: skip
def test_what_is_no_manifest_is_refused(text: str, copy: pathlib.Path):
  (copy / 'manifest.json').write_text(text, errors='surrogateescape')
  with pytest.raises(ArtifactError, match=r'manifest\.json'):
    rings.load(copy)


def test_no_depth_is_too_deep_to_be_refused(copy: pathlib.Path):
  # JSON of some of these depths can be read, but not written again.
  for depth in range(800, 1000):
    text = '{"format": 1, "x": ' + '[' * depth + ']' * depth + '}'
    (copy / 'manifest.json').write_text(text)
    with pytest.raises(ArtifactError, match=r'manifest\.json'):
      rings.load(copy)


def test_missing_and_special_files_are_refused(copy: pathlib.Path, tmp_path: pathlib.Path):
  with pytest.raises(ArtifactError, match='nowhere: there is no such folder'):
    rings.load(tmp_path / 'nowhere')
  ring = copy / 'ring_4.safetensors'
  ring.unlink()
  ring.mkdir()
  with pytest.raises(ArtifactError, match='it is not a file of'):
    rings.load(copy)
  manifest = copy / 'manifest.json'
  manifest.write_bytes(b' ' * (graph_folder.LARGEST + 1))
  with pytest.raises(ArtifactError, match='larger than any manifest'):
    rings.load(copy)
  manifest.unlink()
  # A file of size 0 that has no end.
  manifest.symlink_to('/dev/zero')
  with pytest.raises(ArtifactError, match='no regular file'):
    rings.load(copy)


def mutated(content: bytes, rng: random.Random) -> bytes:
  """Flips bits, cuts, repeats, inserts or overwrites bytes, as disks, transfers and people do."""
  data = bytearray(content)
  for _ in range(rng.choice([1, 1, 1, 2, 5])):
    place = rng.randrange(len(data) + 1)
    kind = rng.randrange(6)
    if kind == 0 and data:
      data[place % len(data)] ^= 1 << rng.randrange(8)
    elif kind == 1:
      del data[place:]
    elif kind == 2:
      data[place:place] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9)))
    elif kind == 3:
      del data[place : place + rng.randrange(1, 9)]
    elif kind == 4:
      data[place : place + 8] = rng.choice([b'\x00', b'\xff', b'9', b'"', b' ']) * 8
    else:
      other = rng.randrange(len(data) + 1)
      data[place : place + 16] = data[other : other + 16]
  return bytes(data)


def test_mutations_are_refused_or_change_nothing(trained: Frozen, copy: pathlib.Path):
  rng = random.Random(0)
  files = {path.name: path.read_bytes() for path in sorted(copy.iterdir())}
  expected = jax.tree.leaves(trained.variables)
  bits = trained.network.bits
  refused: list[str] = []
  for _ in range(2000):
    name = rng.choice(['manifest.json', *files])
    (copy / name).write_bytes(mutated(files[name], rng))
    try:
      read = rings.load(copy)
    except ArtifactError as error:
      refused.append(str(error))
    else:
      # The same integers and floats in the same network: the same logits.
      assert read.manifest.quantization == trained.known['quantization']
      assert read.manifest.model == trained.known['model']
      assert read.bits == bits
      for a, b in zip(jax.tree.leaves(read.variables), expected, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)
    finally:
      (copy / name).write_bytes(files[name])
  assert len(refused) > 1800
  assert not any('\n' in message for message in refused)
