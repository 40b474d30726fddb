"""Writes images of one's own as a TFDS `array_record` directory, without TensorFlow.

Each image is decoded once, which finds what cannot be read and what is there twice; JPEGs that are
upright and in RGB are stored as they are, other files as what they show.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
import os
import pathlib
import re
import shlex
import shutil
from typing import Any, NamedTuple
import warnings

import numpy as np

from dpoq_jax.data import (
  image_folder,
  in_memory,
  labelled_files,
  prepare,
  staged_images,
  tfds_directory,
)
from dpoq_jax.data.corrupt_records import CorruptRecordsError
from dpoq_jax.data.labelled_files import LabelledFile
from dpoq_jax.runtime import files, terminal

VERSION = '1.0.0'

# As TFDS, which makes the names of files from it, and file systems that ignore case.
_NAME = re.compile('[a-z][a-z0-9_]*')
_HOLDOUT = 0.1
# Images that are there several times which are named; of more, only the number is said.
_MOST_NAMED = 10


class Options(NamedTuple):
  """Describes how a data set is made of a source.

  Attributes:
    holdout: share of each class that is not trained on but reported on, in a source without splits;
      None is 0.1.
    seed: draws these images.
    max_corrupt: files that may be skipped, since they cannot be read.
    shorter_side: shorter side that larger images are shrunk to, pixels; None shrinks none.
  """

  holdout: float | None = None
  seed: int = 0
  max_corrupt: int = 10
  shorter_side: int | None = None


class _Image(NamedTuple):
  """Holds a labelled file that can be read, with the digest of its pixels."""

  file: LabelledFile
  digest: bytes


def write(
  name: str, source: pathlib.Path, data_dir: str | None = None, options: Options | None = None
) -> str:
  """Writes the images of a source as D/NAME/1.0.0, which gets its name when it is whole.

  Files that cannot be read are skipped with a warning, and images that are in two splits, or two
  classes, are warned of. What was decoded before a stop is kept in D/NAME/incomplete.images.sqlite
  until the data set is there; the same call goes on from it.

  Args:
    name: name of the data set.
    source: folder of class folders, or CSV file; see `labelled_files.find`.
    data_dir: directory of all TFDS data sets; None for TFDS's default.
    options: how it is made; None for the defaults.

  Returns:
    Two lines: what was written, and the command that trains on it.

  Raises:
    ValueError: for a name that cannot be one, or a source that is none; see `labelled_files.find`.
    FileExistsError: if there is such a data set already.
    BlockingIOError: if another process is preparing it.
    CorruptRecordsError: if more files than allowed cannot be read.
    OSError: if the source cannot be read, or the data set cannot be written.
  """
  options = options or Options()
  _check_name(name)
  path = tfds_directory.prepared_dir(name, VERSION, data_dir)
  _check_absent(name, path)
  found = labelled_files.find(source)
  if found.has_splits and options.holdout is not None:
    raise ValueError(f'--holdout={options.holdout}: {source} has splits of its own; leave it out.')
  refusal = f'another process prepares data set {name} in {path.parent}.'
  with files.lock(path.parent, refusal):
    _check_absent(name, path)
    _remove_leftovers(path.parent)
    database = path.parent / 'incomplete.images.sqlite'
    with staged_images.opened(database, options.shorter_side) as stage:
      images = _decoded(stage, found.files, options.max_corrupt)
      splits = _kept_splits(images) if found.has_splits else _drawn_splits(images, options)
      _check_intact(found.classes, splits['train'])
      _warn_of_copies(splits)
      _write(name, path.parent.parent, stage, found.classes, splits)
    database.unlink()
  return _summary(name, path, found, splits)


def _check_name(name: str) -> None:
  """Checks that a data set can have this name."""
  if not _NAME.fullmatch(name):
    raise ValueError(
      f'{name!r} cannot name a data set: give small letters, digits and _, first a letter.'
    )
  if name in in_memory.DATASETS:
    raise ValueError(f'{name} is the name of another data set: give one of your own.')


def _check_absent(name: str, path: pathlib.Path) -> None:
  """Checks that there is no such data set yet."""
  if path.exists():
    raise FileExistsError(
      f'data set {name} is already in {path}: give another name, or delete that directory.'
    )


def _remove_leftovers(directory: pathlib.Path) -> None:
  """Removes what TFDS had written when it was killed; the lock is ours."""
  for path in directory.glob('incomplete.*/'):
    shutil.rmtree(path)


def _decoded(
  stage: staged_images.Stage, given: Sequence[LabelledFile], max_corrupt: int
) -> list[_Image]:
  """Decodes all files; returns those that can be read, and warns of the others."""
  from rich import console, progress

  stderr = console.Console(stderr=True)
  columns = (*progress.Progress.get_default_columns(), progress.MofNCompleteColumn())
  images: list[_Image] = []
  corrupt = 0
  with progress.Progress(*columns, console=stderr, disable=not stderr.is_terminal) as bar:
    staged = stage.decode([each.path for each in given])
    for file, known in bar.track(zip(given, staged, strict=True), len(given), description='images'):
      if known.digest is not None:
        images.append(_Image(file, known.digest))
        continue
      corrupt += 1
      if corrupt > max_corrupt:
        raise CorruptRecordsError(
          f'{corrupt} files cannot be read, more than --max-corrupt={max_corrupt}, the last one '
          f'{file.name}: {known.error}; repair or remove them, or raise that number.'
        )
      warnings.warn(f'skipping {file.name}: {known.error}', stacklevel=2)
  return images


def _kept_splits(images: Sequence[_Image]) -> dict[str, list[_Image]]:
  """Returns the images of each split of the source."""
  splits: dict[str, list[_Image]] = {'train': []}
  for image in images:
    splits.setdefault(str(image.file.split), []).append(image)
  return splits


def _drawn_splits(images: Sequence[_Image], options: Options) -> dict[str, list[_Image]]:
  """Draws the images of each class that are reported on; copies stay together.

  Raises:
    ValueError: if a class has too few images.
  """
  share = _HOLDOUT if options.holdout is None else options.holdout
  # Copies, in whichever class they are, count as one image of the class of the first.
  copies: dict[bytes, list[_Image]] = {}
  for image in images:
    copies.setdefault(image.digest, []).append(image)
  by_class: dict[str, list[list[_Image]]] = collections.defaultdict(list)
  for group in copies.values():
    by_class[group[0].file.label].append(group)
  splits: dict[str, list[_Image]] = {'train': [], 'validation': []}
  for number, (label, groups) in enumerate(sorted(by_class.items())):
    if len(groups) < 2:
      raise ValueError(
        f'class {label} has one image that can be read: two, that differ, are the least, one to '
        'train on and one to report on.'
      )
    count = min(max(round(share * len(groups)), 1), len(groups) - 1)
    held_out = set(np.random.default_rng((options.seed, number)).permutation(len(groups))[:count])
    for place, group in enumerate(groups):
      splits['validation' if place in held_out else 'train'] += group
  return splits


def _check_intact(classes: Sequence[str], trained: Sequence[_Image]) -> None:
  """Checks that there is something left of each class to train on."""
  if missing := set(classes) - {image.file.label for image in trained}:
    raise ValueError(f'class {min(missing)} has no image that can be read and trained on.')


def _warn_of_copies(splits: Mapping[str, Sequence[_Image]]) -> None:
  """Warns of images, the same to the last pixel, that are in several splits or classes."""
  copies: dict[bytes, list[tuple[str, LabelledFile]]] = collections.defaultdict(list)
  for split, images in splits.items():
    for image in images:
      copies[image.digest].append((split, image.file))
  said = 0
  for group in copies.values():
    names = ' and '.join(f'{file.name} ({split})' for split, file in group)
    if len({split for split, _ in group}) > 1:
      said += 1
      message = f'the same image is in several splits: {names}; accuracies will be too high'
    elif len({file.label for _, file in group}) > 1:
      said += 1
      message = f'the same image is in several classes: {names}'
    else:
      continue
    if said <= _MOST_NAMED:
      warnings.warn(terminal.one_line(f'{message}.'), stacklevel=2)
  if said > _MOST_NAMED:
    warnings.warn(
      f'{said - _MOST_NAMED} more images are in several splits or classes.', stacklevel=2
    )


def _write(
  name: str,
  root: pathlib.Path,
  stage: staged_images.Stage,
  classes: Sequence[str],
  splits: Mapping[str, Sequence[_Image]],
) -> None:
  """Lets TFDS write the images as records."""
  import tensorflow_datasets as tfds

  features = {
    'image': tfds.features.Image(shape=(None, None, 3)),
    'label': tfds.features.ClassLabel(names=list(classes)),
    'file_name': tfds.features.Text(),
  }

  # Not registered, as TFDS finds a data set of its own by name.
  class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # pyright: ignore[reportGeneralTypeIssues, reportCallIssue]
    """Hands over the images; everything else is inherited."""

    VERSION = tfds.core.Version(VERSION)

    def _info(self) -> Any:
      return tfds.core.DatasetInfo(
        builder=self,
        description='Images of the user, written by dpoq prepare folder.',
        features=tfds.features.FeaturesDict(features),
      )

    def _split_generators(self, dl_manager: Any) -> Any:
      del dl_manager  # Nothing is downloaded.
      return {split: self._generate_examples(images) for split, images in splits.items()}

    def _generate_examples(self, images: Sequence[_Image]) -> Iterator[tuple[int, dict[str, Any]]]:
      for number, (file, _) in enumerate(images):
        encoded, file_name = stage.encoded(file.path), os.fsencode(file.name)
        # File names need not be UTF-8.
        yield number, {'image': encoded, 'label': file.label, 'file_name': file_name}

  Builder.name = name
  prepare.write_records(name, root, lambda: Builder(data_dir=root, file_format='array_record'))


def _summary(
  name: str,
  path: pathlib.Path,
  found: labelled_files.Found,
  splits: Mapping[str, Sequence[_Image]],
) -> str:
  """Returns what was written, and the command that trains on it."""
  counts = ', '.join(f'{split} {len(images)}' for split, images in splits.items())
  skipped = len(found.files) - sum(map(len, splits.values()))
  unreadable = f'; {skipped} could not be read' if skipped else ''
  others = f'; {image_folder.summary(found.passed_over)}' if found.passed_over else ''
  data_dir = shlex.quote(str(path.parent.parent))
  return (
    f'data set {name} written to {path}: {len(found.classes)} classes; images: {counts}'
    f'{unreadable}{others}\n'
    f'train on it: dpoq train --config=own_images --config.data.name={name} '
    f'--config.data.dir={data_dir} --workdir=runs/{name}'
  )
