"""Labels images, each at the lowest precision that is sure of it.

    python -m dpoq_jax.predict --workdir=DIR --images=FOLDER|IMAGE|FILE.npy
        [--output=FILE.csv|FILE.jsonl] [--operating-point=FILE] [--max-precision=B] [--precision=B]
        [--step=N|best] [--batch-size=N] [--shard=I/N]

The operating point is that of the workdir (`python -m dpoq_jax.calibrate`) unless another file is
given, and the checkpoint the one it was chosen for; --precision runs everything at one precision
instead and needs none; --max-precision cuts inputs short ("battery is low"). Writes a row per
image, CSV on stdout by default; an image that cannot be read gets a row that says so. Exit status 1
if none could be.

--shard=I/N, I from 1 to N, labels one of N parts, for several machines to share a set: their
outputs one after the other are the whole one, as the first alone has the CSV header.
"""

from collections.abc import Iterator
import contextlib
import io
import pathlib
import re
import sys
from typing import Any, TextIO

from absl import flags
import rich.console
import rich.progress

from dpoq_jax import cli
from dpoq_jax.runtime import files, workdir

_WORKDIR = flags.DEFINE_string('workdir', None, 'directory of the run')
_IMAGES = flags.DEFINE_string('images', None, 'folder of images, one image, or a .npy file')
_OUTPUT = flags.DEFINE_string('output', None, '.csv or .jsonl file; CSV on stdout by default')
_POINT = flags.DEFINE_string('operating_point', None, 'file; the one in the workdir by default')
_PRECISION = flags.DEFINE_integer('precision', None, 'bits: run everything at this precision')
_MAX_PRECISION = flags.DEFINE_integer('max_precision', None, 'bits of the last precision to run')
_STEP = flags.DEFINE_string('step', None, 'checkpoint, or "best"; the newest intact one by default')
_SHARD = flags.DEFINE_string('shard', None, 'I/N: the I-th of N parts of the images')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 256, 'images read at once', lower_bound=1)


def main() -> None:
  """The command."""
  directory, images = cli.required_path(_WORKDIR), cli.required_path(_IMAGES)
  output = pathlib.Path(_OUTPUT.value) if _OUTPUT.value else None
  with cli.user_errors():
    facts = workdir.read_dataset(directory)
    if output and output.suffix not in ('.csv', '.jsonl'):
      raise ValueError(f'--output={output}: give a file that ends in .csv or .jsonl.')
    # Imported once there is something to do, since JAX takes seconds.
    from dpoq_jax.data import to_predict
    from dpoq_jax.inference import cascade, operating_point, predictions
    from dpoq_jax.training import restore

    config = workdir.read_config(directory)
    shorter_side = config.data.resize if config.data.image_size else None
    part, parts = _shard(_SHARD.value or '1/1')
    found = to_predict.find(images, facts.image_shape, shorter_side).shard(part - 1, parts)
    step = cli.checkpoint_step(_STEP.value)
    if _PRECISION.value is not None:
      point = operating_point.static(config.quantization.bits, _PRECISION.value)
    else:
      point = operating_point.read(pathlib.Path(_POINT.value or directory))
      step = point.check(config.data.name, step)
      if not point.met:
        cli.warn('this operating point did not meet its target when it was chosen.')
    trained = restore.load(directory, step)
    running = cascade.Cascade(trained.network, trained.variables, point)
    predicted = predictions.predict(
      running,
      found.batches(_BATCH_SIZE.value),
      facts.class_names,
      max_precision=_MAX_PRECISION.value,
    )
    count = unreadable = spent = 0
    with _written(output) as file, _shown(len(found)) as advance:
      write = predictions.WRITERS[output.suffix if output else '.csv']
      writer = write(file, header=part == 1)
      for row in predicted:
        writer.write(row)
        advance()
        count, unreadable = count + 1, unreadable + (row.error is not None)
        spent += row.precision or 0
  read = count - unreadable
  if count and not read:
    cli.fail(f'none of {count} images could be read.', status=1)
  print(
    f'{read} images labelled, {spent / max(read, 1):.2f} bits on average; '
    f'{unreadable} could not be read.',
    file=sys.stderr,
  )


def _shard(given: str) -> tuple[int, int]:
  """The numbers of `--shard=I/N`."""
  found = re.fullmatch(r'([0-9]+)/([0-9]+)', given)
  if not found or not 1 <= int(found[1]) <= int(found[2]):
    raise ValueError(f'--shard={given}: give I/N, I from 1 to N.')
  return int(found[1]), int(found[2])


def _written(output: pathlib.Path | None) -> contextlib.AbstractContextManager[TextIO]:
  """The file to write, which gets its name once it is whole; stdout without one."""
  if output is not None:
    return files.whole_file(output)
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors='surrogateescape')
  return contextlib.nullcontext(sys.stdout)


@contextlib.contextmanager
def _shown(total: int) -> Iterator[Any]:
  """A bar on stderr, if that is a terminal; gives what moves it by one."""
  console = rich.console.Console(stderr=True)
  columns = (*rich.progress.Progress.get_default_columns(), rich.progress.MofNCompleteColumn())
  with rich.progress.Progress(*columns, console=console, disable=not console.is_terminal) as bar:
    task = bar.add_task('images', total=total)
    yield lambda: bar.advance(task)


if __name__ == '__main__':
  cli.run(main)
