"""Writes a data set where training reads it.

    dpoq prepare cifar10|cifar100 [--data-dir=D] [--source=FOLDER]
    dpoq prepare folder NAME --source=PHOTOS|LABELS.csv [--data-dir=D] [--holdout=0.1] [--seed=0]
        [--max-corrupt=10] [--image-size=S]

D/cifar10/3.0.2 is the TFDS directory that TFDS itself would write, as `array_record` files and
without TensorFlow. The archive is downloaded, or its unpacked batches are read from --source.

D/NAME/1.0.0 holds images of your own: of PHOTOS, which has a folder for each class, or those that
LABELS.csv names (columns path, label, and perhaps split). Splits are kept, if the classes are in
folders train and val or test; else --holdout of each class is reported on. Files that cannot be
read are named and skipped. Run the same command again to go on after a stop.

    dpoq prepare cifar10 --data-dir=data
    dpoq prepare folder flowers --source=photos --data-dir=data
"""

import pathlib
from typing import Any

from dpoq_jax import config as config_lib
from dpoq_jax.cli import flags as shared
from dpoq_jax.cli.errors import fail, user_errors
from dpoq_jax.cli.run import run

_OF_FOLDERS = ('holdout', 'seed', 'max_corrupt', 'image_size')


def define_flags(flags: shared.FlagValues) -> None:
  """Defines the flags of the command."""
  shared.define_data_dir(
    flags, 'TFDS directory to write to; $TFDS_DATA_DIR or ~/tensorflow_datasets by default'
  )
  shared.define_path(
    'source',
    'folder of the official binary batches, or its parent, downloaded by default; of `folder`, the '
    'folder of class folders, or the CSV file',
    flags,
  )
  shared.DEFINE_float(
    'holdout', None, 'share of each class that is reported on; 0.1 by default', flag_values=flags
  )
  shared.DEFINE_integer(
    'seed', None, 'draws the images that are reported on; 0 by default', lower_bound=0,
    flag_values=flags,
  )  # fmt: skip
  shared.DEFINE_integer(
    'max_corrupt', None, 'files that may be skipped; 10 by default', lower_bound=0,
    flag_values=flags,
  )  # fmt: skip
  shared.DEFINE_integer(
    'image_size', None,
    'largest config.data.image_size that is meant: what larger images have too much is left out',
    lower_bound=1, upper_bound=2**14, flag_values=flags,
  )  # fmt: skip


def main(flags: shared.FlagValues, name: str, *names: str) -> None:
  """Writes the data set, and says where."""
  try:
    with user_errors():
      print(_of_folder(flags, *names) if name == 'folder' else _of_archive(flags, name, *names))
  except KeyboardInterrupt:
    fail('interrupted, no data set was written: run the same command again.', status=130)


def _of_archive(flags: shared.FlagValues, name: str, *others: str) -> str:
  """Writes a published data set."""
  from dpoq_jax.data import prepare

  if others:
    raise ValueError(f'unexpected argument {others[0]!r}: images of your own are `folder NAME`.')
  if given := [each for each in _OF_FOLDERS if flags[each].value is not None]:
    raise ValueError(f'--{given[0].replace("_", "-")}: only `dpoq prepare folder` has it.')
  return prepare.prepare(name, flags.data_dir, flags.source)


def _of_folder(flags: shared.FlagValues, *names: str) -> str:
  """Writes a data set of the user's own images."""
  from dpoq_jax.data import prepare_folder

  if not names:
    raise ValueError('give the data set a name: dpoq prepare folder NAME --source=PHOTOS.')
  if not flags.source:
    raise ValueError('--source=PHOTOS is required: a folder of class folders, or a CSV file.')
  if flags.holdout is not None and not 0 < flags.holdout < 1:
    raise ValueError(f'--holdout={flags.holdout}: a share above 0 and below 1.')
  given: dict[str, Any] = {
    each: flags[each].value for each in _OF_FOLDERS if flags[each].value is not None
  }
  if 'image_size' in given:
    # What evaluation resizes to is kept, so that it sees the same pixels.
    given['shorter_side'] = config_lib.usual_resize(given.pop('image_size'))
  options = prepare_folder.Options(**given)
  return prepare_folder.write(names[0], pathlib.Path(flags.source), flags.data_dir, options)


if __name__ == '__main__':
  run(define_flags, main, argument='the name of a data set, or `folder NAME`', most=2)
