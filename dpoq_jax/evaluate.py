"""Evaluates a run: restores it, freezes it to integers, prints and writes its table.

    python -m dpoq_jax.evaluate --workdir=DIR [--precision=B] [--step=N|best] [--data_dir=D]
        [--coordinator=HOST:PORT --num_processes=N --process_id=I | --distributed]

Writes DIR/summary.json; DIR/summary_B_bits.json and the like for less than the whole newest state.
"""

import signal

from absl import flags
import rich.console

from dpoq_jax import cli
from dpoq_jax.runtime import workdir

_WORKDIR = flags.DEFINE_string('workdir', None, 'directory of the run')
_PRECISION = flags.DEFINE_integer('precision', None, 'bits; all precisions by default')
_STEP = flags.DEFINE_string('step', None, 'checkpoint, or "best"; the newest intact one by default')
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'where the data set is now, if it moved')


cli.define_processes()


def main() -> None:
  """The command."""
  directory = cli.required_path(_WORKDIR)
  cli.join_processes()
  # Joined, it is JAX that has it, for runs that save.
  signal.signal(signal.SIGTERM, signal.SIG_DFL)
  with cli.user_errors():
    config = workdir.read_config(directory)
    if _DATA_DIR.value:
      data = config.data.model_copy(update={'dir': _DATA_DIR.value})
      config = config.model_copy(update={'data': data})
    step = cli.checkpoint_step(_STEP.value)
    # Imported once there is something to evaluate, since JAX takes seconds.
    from dpoq_jax.runtime import processes
    from dpoq_jax.training import experiment, summary

    result = summary.evaluate_checkpoint(
      experiment.build(config),
      directory,
      precision=_PRECISION.value,
      step=step,
    )
  rich.console.Console(quiet=not processes.is_first()).print(summary.table(result))


if __name__ == '__main__':
  cli.run(main)
