"""Trains one network at several precisions.

    dpoq train --workdir=DIR [--config=NAME[:variant]] [--config.any.field=value]
        [--dry-run] [--coordinator=HOST:PORT --num-processes=N --process-id=I | --distributed]

Without --config: ResNet-8 at 2, 4, 8 and 16 bits on scikit-learn's digits. Run the same command
again to resume. SIGTERM and Ctrl-C save first (exit status 143 and 130). A disk that is full, or
gone, is exit status 4: the run goes on from its newest checkpoint once there is room.

--dry-run prints what the run will take (parameters, FLOPs, memory, examples/s), found by a few
steps, and writes nothing; it needs no --workdir.

Several processes are one run: each is given the address at which process 0 listens, their number
and its own, or lets JAX find them. --workdir and the data are where all of them see them. A signal
to one stops all; if one is lost the others end, too, and the same commands resume.

    dpoq train --workdir=runs/digits
    dpoq train --config=cifar10_resnet20:bits=2-4 --config.epochs=30 --workdir=runs/cifar10
"""

import contextlib
import pathlib

from dpoq_jax import config as config_lib
from dpoq_jax.cli import flags as shared
from dpoq_jax.cli.errors import fail, user_errors, warn
from dpoq_jax.cli.run import run
from dpoq_jax.runtime import workdir
from dpoq_jax.runtime.console import Console
from dpoq_jax.training import progress

# Exit status of a run that could not be written, or its data not be read.
_NO_STORAGE = 4


def define_flags(flags: shared.FlagValues) -> None:
  """Defines the flags of the command."""
  shared.define_config(flags)
  shared.define_processes(flags)
  shared.define_workdir(flags, 'directory of the run, made if need be')
  shared.DEFINE_bool(
    'dry_run', False, 'print what the run will take, without training', flag_values=flags
  )


def main(flags: shared.FlagValues) -> None:
  """Trains, or resumes training, and prints the summary."""
  config = shared.parsed_config(flags)
  directory = pathlib.Path() if flags.dry_run else shared.required_path(flags, 'workdir')
  for each in config_lib.ineffective(config):
    warn(each)
  several = shared.join_processes(flags)
  display = _display(quiet=flags.dry_run, several=several)
  display.say(progress.plan(config, directory))
  # Imported once the flags are known to be good, since JAX takes seconds.
  from dpoq_jax.runtime import processes, signals
  from dpoq_jax.training import (
    checkpoint,
    dry_run,
    loop,
    metrics,
    preparation,
    summary,
  )
  from dpoq_jax.training import experiment as experiment_lib

  def check() -> None:
    if not flags.dry_run:
      workdir.check(directory, config)
      metrics.read_rows(directory)

  def build() -> experiment_lib.Experiment:
    experiment = experiment_lib.build(config)
    experiment.check_batch()
    return experiment

  with signals.catch_stop(several=several) as stop, contextlib.ExitStack() as claimed:
    with user_errors():
      processes.in_each(check)
      experiment_lib.check_agreed(config)
      experiment = processes.in_each(build)
      experiment_lib.check_same_data(experiment)
      if flags.dry_run:
        measured = dry_run.measure(experiment)
        Console(quiet=not processes.is_first()).print(dry_run.table(measured))
        return
      display.say(progress.header(experiment))
      prepared = None
      if not checkpoint.steps_saved(directory):
        with display.compiling():
          prepared = preparation.prepare(experiment)
      # Claimed last, so that a config that cannot be run leaves no trace.
      processes.by_first(lambda: claimed.enter_context(workdir.claim(directory, config)))
    try:
      result = loop.train(experiment, directory, stop=stop, display=display, prepared=prepared)
    except loop.Stopped as stopped:
      display.say(f'{stopped}: run the same command again to resume.')
      raise SystemExit(stop.exit_status) from None
    except loop.DivergedError as error:
      # As for flags: a scheduler need not start it again, the same steps would follow.
      fail(error)
    except (
      checkpoint.CheckpointError,
      metrics.MetricsError,
      processes.OtherProcessError,
    ) as error:
      fail(error, status=1)
    except BrokenPipeError:
      raise
    except OSError as error:
      saved = checkpoint.steps_saved(directory)
      kept = f'step {saved[-1]} is saved' if saved else 'no step is saved yet'
      fail(f'{error}; {kept}: run the same command again to go on.', status=_NO_STORAGE)
  display.console.print(summary.table(result))
  display.say(progress.ending(config, directory))


def _display(*, quiet: bool, several: bool) -> progress.Progress:
  """Returns the display of the run: of several processes the first speaks."""
  if several:
    from dpoq_jax.runtime import processes

    quiet = quiet or not processes.is_first()
  return progress.Progress(Console(quiet=quiet))


if __name__ == '__main__':
  run(define_flags, main)
