"""Evaluates a run: restores it, freezes it to integers, prints and writes its table.

    dpoq evaluate --workdir=DIR [--precision=B] [--step=N|best] [--data-dir=D]
        [--output=FILE]
        [--coordinator=HOST:PORT --num-processes=N --process-id=I | --distributed]

Writes DIR/summary.json, DIR/summary_B_bits.json and the like for less than the whole newest state,
or the file given, which a run that may only be read needs.

    dpoq evaluate --workdir=runs/digits --precision=4
"""

import signal

from dpoq_jax.cli import flags as shared
from dpoq_jax.cli.errors import user_errors
from dpoq_jax.cli.run import run
from dpoq_jax.runtime import workdir
from dpoq_jax.runtime.console import Console


def define_flags(flags: shared.FlagValues) -> None:
  """Defines the flags of the command."""
  shared.define_workdir(flags)
  shared.define_step(flags)
  shared.define_data_dir(flags)
  shared.define_output(flags, 'file to write, instead of the one in the workdir')
  shared.define_processes(flags)
  shared.DEFINE_integer('precision', None, 'bits; all precisions by default', flag_values=flags)


def main(flags: shared.FlagValues) -> None:
  """Evaluates a checkpoint, prints its summary and writes it."""
  directory = shared.required_path(flags, 'workdir')
  # Joined processes leave SIGTERM to JAX, for runs that save; here it ends the process as usual.
  if several := shared.join_processes(flags):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
  with user_errors(data_flag=shared.DATA_DIR):
    step = shared.checkpoint_step(flags)
    config = None if several else workdir.read_config(directory)
    # Imported once there is something to evaluate, since JAX takes seconds.
    from dpoq_jax.runtime import processes
    from dpoq_jax.training import experiment as experiment_lib
    from dpoq_jax.training import summary

    config = config or processes.in_each(lambda: workdir.read_config(directory))
    config = config.with_data_in(flags.data_dir)
    experiment = processes.in_each(lambda: experiment_lib.build(config))
    experiment_lib.check_same_data(experiment)
    result = summary.evaluate_checkpoint(
      experiment, directory, precision=flags.precision, step=step
    )
  Console(quiet=not processes.is_first()).print(summary.table(result))
  of_step = None if step is None else result['steps']
  name = summary.file_name(step=of_step, precision=flags.precision)
  output = shared.optional_path(flags, 'output') or directory / name
  with user_errors():
    processes.by_first(lambda: summary.write(output, result))


if __name__ == '__main__':
  run(define_flags, main)
