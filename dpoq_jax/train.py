"""Trains one network at several precisions.

    python -m dpoq_jax.train --workdir=DIR [--config=FILE.py[:variant]] [--config.any.field=value]

Without --config: ResNet-8 at 2, 4, 8 and 16 bits on scikit-learn's digits. Run the same command
again to resume. SIGTERM and Ctrl-C save first (exit status 143 and 130).
"""

import contextlib

from absl import flags

from dpoq_jax import cli, workdir

_CONFIG = cli.define_config()
_WORKDIR = flags.DEFINE_string('workdir', None, 'directory of the run, made if need be')


def main() -> None:
  """The command."""
  config = cli.parsed_config(_CONFIG)
  directory = cli.required_path(_WORKDIR)
  # Imported once the flags are known to be good, since JAX takes seconds.
  from dpoq_jax.training import checkpoint, experiment, loop, progress, signals, summary, warm_start

  with signals.catch_stop() as stop, contextlib.ExitStack() as claimed:
    with cli.user_errors():
      setup = experiment.build(config)
      setup.check_batch()
      if not checkpoint.exist(directory):
        warm_start.check(setup)
      # Claimed last, so that a config that cannot be run leaves no trace.
      claimed.enter_context(workdir.claim(directory, config))
    display = progress.Progress()
    try:
      result = loop.train(setup, directory, stop=stop, display=display)
    except loop.Stopped as stopped:
      display.say(f'{stopped}: run the same command again to resume.')
      raise SystemExit(stop.exit_status) from None
    except (loop.DivergedError, checkpoint.CheckpointError) as error:
      cli.fail(error, status=1)
  display.console.print(summary.table(result))


if __name__ == '__main__':
  cli.run(main)
