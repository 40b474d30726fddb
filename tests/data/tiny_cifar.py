"""CIFAR in miniature: the layout of the official binary batches, 20 random images a file."""

import dataclasses
import hashlib
import pathlib

import numpy as np
import pytest

from dpoq_jax.data import prepare

IMAGES_PER_FILE = 20


@dataclasses.dataclass(frozen=True)
class TinyCifar:
  """A folder of binary batches that `prepare` takes for the published ones.

  Attributes:
    name: 'cifar10' or 'cifar100'.
    parent: Directory that holds the folder.
    records: uint8 [records, labels + 3072] of each split.
    class_names: What the labels are called.
  """

  name: str
  parent: pathlib.Path
  records: dict[str, np.ndarray]
  class_names: tuple[str, ...]

  @property
  def folder(self) -> pathlib.Path:
    return self.parent / prepare.ARCHIVES[self.name].folder


def write(name: str, parent: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> TinyCifar:
  """Writes a miniature and has `prepare` expect its checksums."""
  archive = prepare.ARCHIVES[name]
  folder = parent / archive.folder
  folder.mkdir(parents=True)
  for file, count in archive.label_names.items():
    # The real files end with an empty line, too.
    (folder / file).write_text(''.join(f'{file[:4]}_{i}\n' for i in range(count)) + '\n')
  num_classes = list(archive.label_names.values())
  rng = np.random.default_rng(0)
  records, checksums = {'train': [], 'test': []}, {}
  for file in archive.batches:
    labels = rng.integers(0, num_classes, (IMAGES_PER_FILE, len(num_classes)), np.uint8)
    pixels = rng.integers(0, 256, (IMAGES_PER_FILE, 3072), np.uint8)
    batch = np.concatenate([labels, pixels], axis=1)
    (folder / file).write_bytes(batch.tobytes())
    checksums[file] = hashlib.sha256(batch.tobytes()).hexdigest()
    records['test' if file.startswith('test') else 'train'].append(batch)
  monkeypatch.setitem(prepare.ARCHIVES, name, dataclasses.replace(archive, batches=checksums))
  return TinyCifar(
    name,
    parent,
    {split: np.concatenate(batches) for split, batches in records.items()},
    tuple(f'{list(archive.label_names)[-1][:4]}_{i}' for i in range(num_classes[-1])),
  )


def prepared(tiny: TinyCifar, data_dir: pathlib.Path) -> pathlib.Path:
  prepare.prepare(tiny.name, str(data_dir), str(tiny.parent))
  return data_dir / tiny.name / '3.0.2'
