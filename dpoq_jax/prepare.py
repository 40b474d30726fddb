"""Writes a data set where training reads it.

    dpoq prepare cifar10|cifar100 [--data-dir=D] [--source=FOLDER]

D/cifar10/3.0.2 is the TFDS directory that TFDS itself would write, as `array_record` files and
without TensorFlow. The archive is downloaded, or its unpacked batches are read from --source.

    dpoq prepare cifar10 --data-dir=data
"""

from dpoq_jax.cli import flags as shared
from dpoq_jax.cli.errors import fail, user_errors
from dpoq_jax.cli.run import run


def define_flags(flags: shared.FlagValues) -> None:
  """Defines the flags of the command."""
  shared.define_data_dir(
    flags, 'TFDS directory to write to; $TFDS_DATA_DIR or ~/tensorflow_datasets by default'
  )
  shared.define_path(
    'source', 'folder of the official binary batches, or its parent; downloaded by default', flags
  )


def main(flags: shared.FlagValues, name: str) -> None:
  """Writes the data set, and says where."""
  from dpoq_jax.data import prepare

  try:
    with user_errors():
      print(prepare.prepare(name, flags.data_dir, flags.source))
  except KeyboardInterrupt:
    fail('interrupted, no data set was written.', status=130)


if __name__ == '__main__':
  run(define_flags, main, argument='the name of a data set')
