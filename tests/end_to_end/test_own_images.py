"""Photographs in folders become a network: the commands of docs/how_to/own_images.md, shortened."""

import csv
import json
import pathlib
import re
import shutil
import subprocess

import jax
import pytest

from dpoq_jax import classifier
from dpoq_jax.training import metrics
from tests import conftest, fast, pages
from tests.data import photographs
from tests.end_to_end import runs

PAGE = pages.ROOT / 'docs' / 'how_to' / 'own_images.md'
COMMANDS = [words[1:] for words in pages.shell_lines(PAGE)]
# Two paths of a small network, and runs of seconds.
NO_COMPANIONS = ('--config.objective.companion_bits=()', '--config.objective.companion_rings=1')
SHORTER = {
  '--config=own_images': (
    '--config=own_images:size=32,model=resnet8,width=8,bits=2-4',
    '--config.epochs=8',
    '--config.eval_every=8',
    *NO_COMPANIONS,
  ),
  '--config=own_images:size=32,model=resnet8': (
    '--config=own_images:size=32,model=resnet8,bits=2-4',
    '--dry_run',
    *NO_COMPANIONS,
  ),
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Folder with 300 photographs of 5 classes, in two splits, and ten more to label."""

  def make(folder: pathlib.Path) -> None:
    photos = folder / 'photos'
    photographs.write(photos / 'train', 239)
    photographs.write(photos / 'val', 60, seed=1)
    photographs.write(folder / 'more_photos', 10, seed=2)
    # One that is in both splits, and two that are damaged.
    copied = next((photos / 'train' / 'bee').glob('*.JPG'))
    shutil.copy(copied, photos / 'val' / 'bee' / 'copied.jpg')
    first, second = sorted((photos / 'train' / 'elk').iterdir())[:2]
    first.write_bytes(first.read_bytes()[:300])
    second.write_bytes(b'')

  return conftest.once(tmp_path_factory, 'own_images_end_to_end', make)


def in_folder(folder: pathlib.Path, words: list[str]) -> list[str]:
  """The words of a command of the page, with paths as of the folder, shortened."""
  paths = re.compile(r'^(--\S+=)?(?=(?:photos|data|runs|shipped|more_photos)\b)')
  return [
    paths.sub(rf'\g<1>{folder}/', each) for word in words for each in SHORTER.get(word, (word,))
  ]


def called(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
  """Runs a command in this process, whose strict promotion Optax's schedules do not take."""
  with jax.numpy_dtype_promotion('standard'), fast.compiling():
    return runs.call(name, *arguments)


def labels(done: subprocess.CompletedProcess[str]) -> list[tuple[str, str]]:
  """The class of each of the photographs to label, and what it was taken for."""
  rows = list(csv.DictReader(done.stdout.splitlines()))
  assert len(rows) == 10, done.stderr
  return [(pathlib.Path(row['input']).parts[-2], row['class_name']) for row in rows]


def test_a_folder_of_photographs_becomes_a_network(folder: pathlib.Path):
  assert len(list((folder / 'photos').rglob('*.*'))) == 300
  done: list[subprocess.CompletedProcess[str]] = []
  for name, *words in COMMANDS:
    # In a process, as warnings of one in this process are not shown.
    start = runs.command if name == 'prepare' else called
    found = start(name, *in_folder(folder, words))
    # A small split need not have a point that meets the target.
    assert found.returncode in ((0, 3) if name == 'calibrate' else (0,)), found.stderr
    done.append(found)
  prepared, trained, warm, _, of_run, _, of_artifact = done

  assert 'images: train 237, validation 61; 2 could not be read' in prepared.stdout
  said = prepared.stderr.splitlines()
  assert sum('skipping train/elk/' in line for line in said) == 2
  (copy,) = (line for line in said if 'several splits' in line)
  assert 'train/bee/' in copy
  assert 'val/bee/copied.jpg (validation)' in copy

  # The network has learned, and calls the classes by the names of their folders.
  run = folder / 'runs' / 'fruit'
  top1 = metrics.mean_top1(metrics.read_rows(run))
  assert max(top1.values()) > 0.6, trained.stdout
  for path in (run, folder / 'shipped'):
    assert classifier.load(path).class_names == photographs.CLASSES
  assert '237 images of 32 x 32, 0.728 MB, in memory' in warm.stdout
  found = labels(of_run)
  assert sum(label == predicted for label, predicted in found) >= 5
  assert labels(of_artifact) == found

  # So do the graphs and the report.
  onnx = called('export', f'--workdir={run}', f'--output={folder}/onnx', '--format=onnx')
  assert onnx.returncode == 0, onnx.stderr
  manifest = json.loads((folder / 'onnx' / 'manifest.json').read_text())
  assert tuple(manifest['class_names']) == photographs.CLASSES
  report = called('report', f'--workdir={run}')
  assert report.returncode == 0, report.stderr
  page = (run / 'report' / 'report.html').read_text()
  assert 'crème brûlée' in page or json.dumps('crème brûlée')[1:-1] in page
