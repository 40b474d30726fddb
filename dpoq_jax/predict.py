"""Labels images, each at the lowest precision that is sure of it.

    dpoq predict --workdir=DIR|--artifact=FOLDER|--pretrained=NAME PATH...
        [--output=FILE.csv|FILE.jsonl] [--top=N] [--precision=B] [--max-precision=B]
        [--operating-point=FILE] [--step=N|best] [--batch-size=N] [--shard=I/N]

PATH is a folder, an image, a pattern (`photos/*.jpg`) or a .npy file; --images=PATH is the same.
The network is that of a run, of an artifact (`dpoq export`) or one that comes with the library. The
operating point is the one kept with it (`dpoq calibrate`) unless another file is given, and the
checkpoint the one it was chosen for; --precision runs everything at one precision instead and needs
none; --max-precision cuts inputs short ("battery is low"). Writes a row per image, CSV on stdout by
default; an image, or folder, that cannot be read gets a row that says so. Files of other kinds are
passed over, and counted at the end. Exit status 1 if nothing could be read.

In CSV every field is quoted, and one that a spreadsheet would take for a formula (it begins with
=, +, -, @, a tab or a line break) has an apostrophe before it; JSON lines hold names as they are.
--top=5 also names the four next probable classes.

--shard=I/N, I from 1 to N, labels one of N parts, for several machines to share a set: their
outputs one after the other are the whole one, as the first alone has the CSV header.

    dpoq predict --pretrained=cifar10_resnet20 photos
    dpoq predict --workdir=runs/mine 'photos/*.jpg' --top=5 --output=labels.csv
"""

from collections.abc import Callable, Iterator
import contextlib
import io
import pathlib
import re
import sys
from typing import TextIO

import rich.progress

from dpoq_jax.cli import flags as shared
from dpoq_jax.cli.errors import fail, user_errors, warn
from dpoq_jax.cli.run import run
from dpoq_jax.runtime import files
from dpoq_jax.runtime.console import Console


def define_flags(flags: shared.FlagValues) -> None:
  """Defines the flags of the command."""
  shared.define_network(flags)
  shared.define_output(flags, '.csv or .jsonl file; CSV on stdout by default')
  shared.define_operating_point(flags)
  shared.define_step(flags)
  shared.define_path('images', 'folder of images, an image, a pattern or a .npy file', flags)
  shared.DEFINE_integer(
    'precision', None, 'bits: run everything at this precision', flag_values=flags
  )
  shared.DEFINE_integer(
    'max_precision', None, 'bits of the last precision to run', flag_values=flags
  )
  shared.DEFINE_integer(
    'top', 1, 'number of the most probable classes that are named', lower_bound=1, flag_values=flags
  )
  shared.DEFINE_string('shard', '1/1', 'I/N: the I-th of N parts of the images', flag_values=flags)
  shared.DEFINE_integer('batch_size', 256, 'images read at once', lower_bound=1, flag_values=flags)


def main(flags: shared.FlagValues, *paths: str) -> None:
  """Labels images and writes a row for each."""
  paths = (*paths, flags.images) if flags.images else paths
  if not paths:
    fail('give the paths of images: a folder, files, a pattern or a .npy file.')
  output = shared.optional_path(flags, 'output')
  with user_errors():
    source = shared.network_folder(flags)
    if output and output.suffix not in ('.csv', '.jsonl'):
      raise ValueError(f'--output={output}: give a file that ends in .csv or .jsonl.')
    part, parts = _shard(flags.shard)
    if flags.operating_point and flags.precision is not None:
      raise ValueError('--operating-point and --precision given: the one is in place of the other.')
    # Imported once there is something to do, since JAX takes seconds.
    from dpoq_jax import classifier
    from dpoq_jax.data import image_folder, to_predict
    from dpoq_jax.inference import operating_point, predictions

    given = shared.optional_path(flags, 'operating_point')
    network = classifier.load(
      source,
      # Of an artifact, the files of rings that are not to run need not be there.
      max_bits=(flags.precision or flags.max_precision) if flags.artifact else None,
      step=shared.checkpoint_step(flags),
      point=operating_point.read(given) if given else None,
      precision=flags.precision,
    )
    found = to_predict.find_all(paths, network.image_shape, network.resize).shard(part - 1, parts)
    if network.operating_point is None:
      raise FileNotFoundError(
        f'no operating point in {source}: choose one with dpoq calibrate, or give --precision='
        f'{network.bits[-1]}.'
      )
    if not network.operating_point.met:
      warn('this operating point did not meet its target when it was chosen.')
    predicted = predictions.predict(
      network.cascade,
      found.batches(flags.batch_size),
      network.class_names,
      max_precision=flags.max_precision,
      top=flags.top,
    )
    count = unreadable = spent = 0
    with _written(output) as file, _shown(len(found)) as advance:
      write = predictions.WRITERS[output.suffix if output else '.csv']
      writer = write(file, header=part == 1, top=flags.top)
      for prediction in predicted:
        writer.write(prediction)
        advance()
        count, unreadable = count + 1, unreadable + (prediction.error is not None)
        spent += prediction.precision or 0
  read = count - unreadable
  if count and not read:
    fail(f'none of {count} images could be read.', status=1)
  others = f'; {image_folder.summary(found.passed_over)}' if found.passed_over else ''
  print(
    f'{read} images labelled, {spent / max(read, 1):.2f} bits on average; '
    f'{unreadable} could not be read{others}.',
    file=sys.stderr,
  )


def _shard(given: str) -> tuple[int, int]:
  """Returns the two numbers of `--shard=I/N`."""
  found = re.fullmatch(r'([0-9]+)/([0-9]+)', given)
  if not found or not 1 <= int(found[1]) <= int(found[2]):
    raise ValueError(f'--shard={given}: give I/N, I from 1 to N.')
  return int(found[1]), int(found[2])


def _written(output: pathlib.Path | None) -> contextlib.AbstractContextManager[TextIO]:
  """Opens the file to write, which gets its name once it is whole; stdout without one."""
  if output is not None:
    return files.whole_file(output)
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors='surrogateescape')
  return contextlib.nullcontext(sys.stdout)


@contextlib.contextmanager
def _shown(total: int) -> Iterator[Callable[[], None]]:
  """Shows a bar on stderr, if that is a terminal; yields a function that advances it by one."""
  console = Console(stderr=True)
  columns = (*rich.progress.Progress.get_default_columns(), rich.progress.MofNCompleteColumn())
  with rich.progress.Progress(*columns, console=console, disable=not console.is_terminal) as bar:
    task = bar.add_task('images', total=total)
    yield lambda: bar.advance(task)


if __name__ == '__main__':
  run(define_flags, main, argument='the paths of images', least=0, most=None)
