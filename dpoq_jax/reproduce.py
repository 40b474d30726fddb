"""Runs the paper's tables and figures, and tables of ours, and writes what they come to.

    dpoq reproduce table1|table2|table3|figure3|figure5|ablation|recipe|noise
        --scale=smoke|cpu|long|paper --workdir=DIR [--data-dir=D] [--results=results] [--notrain]
        [--jobs=N]

Trains what is missing in DIR/SCALE and keeps what each run comes to in RESULTS/SCALE/runs; stop it
and start it again at will. Writes TABLE.md, TABLE.csv and plots in RESULTS/SCALE, the results
beside the paper's numbers. A run that fails does not stop the others: the table is made of those
there are, and the exit status is 1. --notrain makes the table of what there is. --jobs trains
several at a time, on an accelerator that one does not fill.

`figure5` is of the paper's onion and the recipe's; it shows the one that there is, if the other is
missing.

`ablation` is what each change to the training of an onion gains alone, `recipe` the onion with
those that gain against the paper's, individual networks and shared kernels, `noise` how far apart
the same onion comes out over seeds, and over roundings of one seed. Each has a page of its own,
ABLATION.md, RECIPE.md or NOISE.md, which names the runs that are missing.

`smoke` takes minutes (the embedded digits), `cpu` hours on two cores (CIFAR-10, ResNet-8), `paper`
is the paper's schedule in full, for a GPU. `long`, for `recipe` alone, is between them: 30 epochs
of ResNet-8, 20 of ResNet-20.
"""

import pathlib

from dpoq_jax.cli import flags as shared
from dpoq_jax.cli.errors import fail, user_errors
from dpoq_jax.cli.run import run
from dpoq_jax.runtime.files import write_whole


def define_flags(flags: shared.FlagValues) -> None:
  """Defines the flags of the command."""
  shared.define_workdir(flags, 'directory of the training runs')
  shared.define_data_dir(flags, "where data sets are; TFDS's own by default")
  shared.DEFINE_string(
    'results', 'results', 'directory of what the runs come to', flag_values=flags
  )
  shared.DEFINE_enum(
    'scale', None, ['smoke', 'cpu', 'long', 'paper'], 'how large the runs are', flag_values=flags
  )
  shared.DEFINE_integer(
    'jobs', 1, 'number of trainings at a time', lower_bound=1, flag_values=flags
  )
  shared.DEFINE_bool('train', True, 'train what is missing', flag_values=flags)


def main(flags: shared.FlagValues, what: str) -> None:
  """Trains what is missing of a table or figure, and writes it."""
  directory = shared.required_path(flags, 'workdir')
  if flags.scale is None:
    fail('--scale=smoke|cpu|long|paper is required.')
  # Imported once there is something to do, since JAX takes seconds.
  from dpoq_jax.reproduction import ablation, figures, results, runs, tables
  from dpoq_jax.reproduction import cells as cells_lib
  from dpoq_jax.runtime import signals

  scale = cells_lib.SCALES[flags.scale]
  folder = pathlib.Path(flags.results) / scale.name
  with signals.catch_stop() as stop, user_errors():
    trainer = runs.Trainer(
      stored=folder / 'runs',
      workdir=directory / scale.name,
      data_dir=flags.data_dir,
      environment=scale.environment,
      say=lambda line: print(line, flush=True),
      stopping=lambda: bool(stop),
      jobs=flags.jobs,
    )

    def train(
      wanted: list[runs.Run], *, checkpoints: bool = False
    ) -> tuple[dict[runs.Run, str], list[runs.Run]]:
      """Returns the runs that failed, with the reasons, and those that are not there."""
      if flags.train:
        failures = trainer.train(wanted, checkpoints=checkpoints)
        return failures, list(failures)
      return {}, trainer.missing(wanted, checkpoints=checkpoints)

    page = None
    try:
      if what in figures.FIGURES:
        wanted, part = figures.runs_of(what, scale)
        failures, absent = train(list(wanted.values()), checkpoints=True)
        there = {
          name: trainer.workdir / run.name for name, run in wanted.items() if run not in absent
        }
        if not there and not failures:
          names = ' or '.join(run.name for run in absent)
          fail(f'no network {names} is in {trainer.workdir}: leave out --notrain.')
        if there:
          entries, png = figures.measure(what, part, there, flags.data_dir)
          page = results.write(folder, what, entries)
          write_whole(folder / f'{what}.png', png)
      else:
        cells = tables.cells(what, scale)
        failures, _ = train([cell.run for cell in cells])
        if what in ablation.TABLES:
          entries = cells_lib.measured(cells, trainer.stored, mean=True)
          comparison = ablation.comparison(what, scale, trainer.stored)
          page = results.write_comparison(folder, what, entries, comparison)
        else:
          page = results.write(folder, what, cells_lib.measured(cells, trainer.stored))
    except runs.Stopped as stopped:
      print(stopped, flush=True)
      raise SystemExit(stop.exit_status) from None
  if page is not None:
    print(f'written to {page}')
  if failures:
    fail(f'{len(failures)} runs failed: {", ".join(r.name for r in failures)}.', status=1)


if __name__ == '__main__':
  run(
    define_flags,
    main,
    argument='table1, table2, table3, figure3, figure5, ablation, recipe or noise',
  )
