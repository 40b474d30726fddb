"""Shows a run as one HTML page that works offline, its plots as PNG beside it.

    dpoq report --workdir=DIR [--operating-point=FILE] [--step=N|best]
        [--split-seed=N] [--data-dir=D] [--output=FOLDER]

Training curves, accuracy against bits, rerun curves with a slider that picks an operating point and
downloads it, examples that leave first and last. Writes DIR/report/report.html. A run without an
operating point is shown at the one that `calibrate` would choose.

    dpoq report --workdir=runs/digits
"""

from dpoq_jax.cli import flags as shared
from dpoq_jax.cli.errors import user_errors, warn
from dpoq_jax.cli.run import run


def define_flags(flags: shared.FlagValues) -> None:
  """Defines the flags of the command."""
  shared.define_workdir(flags)
  shared.define_operating_point(flags)
  shared.define_step(flags)
  shared.define_split_seed(flags)
  shared.define_data_dir(flags)
  shared.define_output(flags, 'folder to write; report/ in the workdir by default')


def main(flags: shared.FlagValues) -> None:
  """Writes the report of a run."""
  directory = shared.required_path(flags, 'workdir')
  with user_errors(data_flag=shared.DATA_DIR):
    # Imported once there is something to do, since JAX takes seconds.
    from dpoq_jax import from_run
    from dpoq_jax.reporting import page
    from dpoq_jax.training import metrics

    point = from_run.read_operating_point(directory, shared.optional_path(flags, 'operating_point'))
    trained = from_run.open_network(directory, shared.checkpoint_step(flags), point)
    config = trained.config
    record = None if point is None else point.data
    recorded = None if record is None else record.split_seed
    split_seed = recorded if flags.split_seed is None else flags.split_seed
    examples = from_run.held_out(trained, flags.data_dir, split_seed or 0)
    if flags.split_seed is not None and examples.split_seed is None:
      warn('--split-seed has no effect: this run held examples out of training, nothing is halved.')
    if record is not None and record.calibration != examples.calibration.name:
      warn(
        f'this operating point was chosen on {record.calibration}, the report is of '
        f'{examples.calibration.name}: reported examples may have had a part in the choice.'
      )
    if point is None:
      point = from_run.default_operating_point(trained, examples)
    written = page.write(
      shared.optional_path(flags, 'output') or directory / 'report',
      title=f'{config.model.label} on {config.data.name}',
      rows=metrics.read_rows(directory, up_to=trained.step),
      calibration=examples.calibration,
      reported=examples.reported,
      whole=examples.whole,
      images=examples.images,
      class_names=trained.facts.class_names,
      point=point,
    )
  print(f'written to {written}')


if __name__ == '__main__':
  run(define_flags, main)
