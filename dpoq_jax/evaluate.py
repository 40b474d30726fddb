"""Evaluates a run: restores it, freezes it to integers, prints and writes its table.

    python -m dpoq_jax.evaluate --workdir=DIR [--precision=B] [--step=N]

Writes DIR/summary.json, or DIR/summary_B_bits.json for one precision alone.
"""

from absl import flags
import rich.console

from dpoq_jax import cli
from dpoq_jax import config as config_lib

_WORKDIR = flags.DEFINE_string('workdir', None, 'directory of the run')
_PRECISION = flags.DEFINE_integer('precision', None, 'bits; all precisions by default')
_STEP = flags.DEFINE_integer('step', None, 'checkpoint; the newest intact one by default')


def main() -> None:
  """The command."""
  workdir = cli.required_path(_WORKDIR)
  with cli.user_errors():
    config = config_lib.read(workdir)
    # Imported once there is something to evaluate, since JAX takes seconds.
    from dpoq_jax.training import experiment, summary

    result = summary.evaluate_checkpoint(
      experiment.build(config), workdir, precision=_PRECISION.value, step=_STEP.value
    )
  rich.console.Console().print(summary.table(result))


if __name__ == '__main__':
  cli.run(main)
