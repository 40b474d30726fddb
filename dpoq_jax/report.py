"""Shows a run as one HTML page that works offline, its plots as PNG beside it.

    python -m dpoq_jax.report --workdir=DIR [--operating-point=FILE] [--step=N|best]
        [--data-dir=D] [--output=FOLDER]

Training curves, accuracy against bits, rerun curves with a slider that picks an operating point and
downloads it, examples that leave first and last. Writes DIR/report/report.html. A run without an
operating point is shown at the one that `calibrate` would choose.
"""

import pathlib

from absl import flags

from dpoq_jax import cli
from dpoq_jax.runtime import workdir

_WORKDIR = flags.DEFINE_string('workdir', None, 'directory of the run')
_POINT = flags.DEFINE_string('operating_point', None, 'file; the one in the workdir by default')
_STEP = flags.DEFINE_string('step', None, 'checkpoint, or "best"; the newest intact one by default')
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'where the data set is now, if it moved')
_OUTPUT = flags.DEFINE_string('output', None, 'folder to write; report/ in the workdir by default')


def main() -> None:
  """The command."""
  directory = cli.required_path(_WORKDIR)
  with cli.user_errors():
    config = workdir.read_config(directory)
    # Imported once there is something to do, since JAX takes seconds.
    from dpoq_jax import from_run
    from dpoq_jax.inference import calibration, operating_point
    from dpoq_jax.reporting import page as page_lib
    from dpoq_jax.training import metrics, restore

    given = pathlib.Path(_POINT.value or directory / operating_point.FILE)
    point = operating_point.read(given) if _POINT.value or given.exists() else None
    step = cli.checkpoint_step(_STEP.value)
    trained = restore.load(directory, point.check(config.data.name, step) if point else step)
    examples = from_run.run(trained, _DATA_DIR.value)
    if point is None:
      point = calibration.choose(
        examples.calibration,
        examples.reported,
        trained.network.bits,
        calibration.Settings(),
        dataset=config.data.name,
        step=trained.step,
      )[0]
    page = page_lib.write(
      pathlib.Path(_OUTPUT.value or directory / 'report'),
      title=f'{config.model.label} on {config.data.name}',
      rows=metrics.read_rows(directory, up_to=trained.step),
      calibration=examples.calibration,
      reported=examples.reported,
      images=examples.images,
      class_names=trained.facts.class_names,
      point=point,
    )
  print(f'written to {page}')


if __name__ == '__main__':
  cli.run(main)
