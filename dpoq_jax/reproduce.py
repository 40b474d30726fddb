"""Runs the paper's tables and figures and sets the results beside its numbers.

    python -m dpoq_jax.reproduce table1|table2|table3|figure3|figure5 --scale=smoke|cpu|paper
        --workdir=DIR [--data-dir=D] [--results=results] [--notrain]

Trains what is missing in DIR/SCALE, one run after the other, and keeps what each comes to in
RESULTS/SCALE/runs; stop it and start it again at will. Writes TABLE.md, TABLE.csv and plots in
RESULTS/SCALE. A run that fails does not stop the others: the table is made of those there are, and
the exit status is 1. --notrain makes the table of what there is.

`smoke` takes minutes (the embedded digits), `cpu` hours on two cores (CIFAR-10, ResNet-8), `paper`
is the paper's schedule in full, for a GPU.
"""

import pathlib

from dpoq_jax.cli import flags as shared
from dpoq_jax.cli.errors import fail, user_errors
from dpoq_jax.cli.run import run


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
  shared.DEFINE_bool('train', True, 'train what is missing', flag_values=flags)


def main(flags: shared.FlagValues, what: str) -> None:
  """Trains what is missing of a table or figure, and writes it."""
  directory = shared.required_path(flags, 'workdir')
  if flags.scale is None:
    fail('--scale=smoke|cpu|long|paper is required.')
  # Imported once there is something to do, since JAX takes seconds.
  from dpoq_jax.reproduction import cells as cells_lib
  from dpoq_jax.reproduction import figures, results, runs, tables
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
    )

    def train(wanted: list[runs.Run], *, checkpoints: bool = False) -> dict[runs.Run, str]:
      if flags.train:
        return trainer.train(wanted, checkpoints=checkpoints)
      trainer.missing(wanted)
      return {}

    try:
      if what in figures.FIGURES:
        run, part = figures.run_of(scale)
        if not flags.train and trainer.missing([run], checkpoints=True):
          fail(f'the network {run.name} is not in {trainer.workdir}: leave out --notrain.')
        failures = train([run], checkpoints=True)
        if not failures:
          entries, png = figures.measure(what, part, trainer.workdir / run.name, flags.data_dir)
          results.write(folder, what, entries)
          (folder / f'{what}.png').write_bytes(png)
      else:
        cells = tables.cells(what, scale)
        failures = train([cell.run for cell in cells])
        results.write(folder, what, cells_lib.measured(cells, trainer.stored))
    except runs.Stopped as stopped:
      print(stopped, flush=True)
      raise SystemExit(stop.exit_status) from None
  print(f'written to {folder / results.PAGE_FILE}')
  if failures:
    fail(f'{len(failures)} runs failed: {", ".join(r.name for r in failures)}.', status=1)


if __name__ == '__main__':
  run(define_flags, main, argument='table1, table2, table3, figure3 or figure5')
