"""Runs the paper's tables and figures, and tables of ours, and writes what they come to.

    dpoq reproduce table1|table2|table3|figure3|figure5|ablation|recipe|noise
        --scale=smoke|cpu|long|paper --workdir=DIR [--data-dir=D] [--results=results] [--notrain]
        [--fresh] [--jobs=N]

Trains what is missing in DIR/SCALE and keeps what each run comes to in RESULTS/SCALE/runs; stop it
and start it again at will. Writes TABLE.md, TABLE.csv and plots in RESULTS/SCALE, the results
beside the paper's numbers. A run that fails does not stop the others: the table is made of those
there are, and the exit status is 1. --notrain makes the table of what there is. --jobs trains
several at a time, on an accelerator that one does not fill.

Results that RESULTS has, such as those that come with the repository, count as done: the command
says how many they are. --fresh trains all anew: it takes and keeps results in DIR/SCALE/results
alone, and leaves RESULTS as it is.

`figure5` is of the paper's onion and the recipe's, of the largest network of the scale; it shows
the one that there is, if the other is missing.

`ablation` is what each change to the training of an onion gains alone, `recipe` the onion with
those that gain against the paper's, individual networks and shared kernels, `noise` how far apart
the same onion comes out over seeds, and over roundings of one seed. Each has a page of its own,
ABLATION.md, RECIPE.md or NOISE.md, which names the runs that are missing.

`smoke` takes minutes (the embedded digits), `cpu` hours on two cores (CIFAR-10, ResNet-8), `paper`
is the paper's schedule in full, for a GPU. `long`, for `recipe` and `figure5` alone, is between
them: 30 epochs of ResNet-8, 20 of ResNet-20.
"""

import pathlib

from dpoq_jax.cli import flags as shared
from dpoq_jax.cli.errors import fail, user_errors
from dpoq_jax.cli.run import run
from dpoq_jax.config import names
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
  shared.DEFINE_bool(
    'fresh', False, 'train all anew, and keep results in the workdir alone', flag_values=flags
  )
  shared.DEFINE_bool('train', True, 'train what is missing', flag_values=flags)


def main(flags: shared.FlagValues, what: str) -> None:
  """Trains what is missing of a table or figure, and writes it."""
  directory = shared.required_path(flags, 'workdir')
  if flags.scale is None:
    fail('--scale=smoke|cpu|long|paper is required.')
  if flags.fresh and flags['results'].present:
    fail('--fresh and --results given: --fresh keeps its results in the workdir; give one.')
  # Imported once there is something to do, since JAX takes seconds.
  from dpoq_jax.reproduction import ablation, figures, results, runs, tables
  from dpoq_jax.reproduction import cells as cells_lib
  from dpoq_jax.runtime import signals

  known = (*tables.TABLES, *figures.FIGURES)
  if what not in known:
    fail(f'{what}: {names.hint(what, known, listed=True)}')
  scale = cells_lib.SCALES[flags.scale]
  workdir = directory / scale.name
  folder = workdir / 'results' if flags.fresh else pathlib.Path(flags.results) / scale.name
  with signals.catch_stop() as stop, user_errors(data_flag=shared.DATA_DIR):
    trainer = runs.Trainer(
      stored=folder / 'runs',
      workdir=workdir,
      data_dir=flags.data_dir,
      environment=scale.environment,
      say=lambda line: print(line, flush=True),
      stopping=lambda: bool(stop),
      jobs=flags.jobs,
    )
    is_figure = what in figures.FIGURES
    if is_figure:
      by_network, part = figures.runs_of(what, scale)
      cells, wanted = [], list(by_network.values())
    else:
      by_network, part, cells = {}, '', tables.cells(what, scale)
      wanted = list(dict.fromkeys(cell.run for cell in cells))
    absent = trainer.missing(wanted, checkpoints=is_figure)
    # A damaged record is found out before hours of training, not after.
    if what not in ablation.TABLES:
      results.read(folder)
    trainer.say(trainer.counted(wanted, absent))
    try:
      failures = trainer.train(wanted, checkpoints=is_figure) if flags.train else {}
    except runs.Stopped as stopped:
      print(stopped, flush=True)
      raise SystemExit(stop.exit_status) from None
    lacking = list(failures) if flags.train else absent
    there = [run for run in wanted if run not in lacking]
    page = None
    if not there and not failures:
      where = trainer.workdir if is_figure else trainer.stored
      kind = 'networks' if is_figure else 'results'
      fail(f'none of the {len(wanted)} {kind} of {what} is in {where}: leave out --notrain.')
    if not there:
      pass
    elif is_figure:
      workdirs = {name: workdir / run.name for name, run in by_network.items() if run in there}
      entries, png = figures.measure(what, part, workdirs, flags.data_dir)
      page = results.write(folder, what, entries)
      write_whole(folder / f'{what}.png', png)
    elif what in ablation.TABLES:
      entries = cells_lib.measured(cells, trainer.stored, mean=True)
      comparison = ablation.comparison(what, scale, trainer.stored)
      page = results.write_comparison(folder, what, entries, comparison)
    else:
      page = results.write(folder, what, cells_lib.measured(cells, trainer.stored))
  trained = len(absent) - len(lacking)
  if page is not None:
    print(f'written to {page}')
    if trained == 0:
      print(
        f'nothing was trained: all {len(there)} results are those kept in {trainer.stored}; '
        '--fresh trains all anew and keeps these.'
      )
  if failures:
    fail(f'{len(failures)} runs failed: {", ".join(r.name for r in failures)}.', status=1)


if __name__ == '__main__':
  run(
    define_flags,
    main,
    argument='table1, table2, table3, figure3, figure5, ablation, recipe or noise',
  )
