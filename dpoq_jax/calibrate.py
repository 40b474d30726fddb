"""Chooses an operating point for dynamic inference, and says what it is worth.

    python -m dpoq_jax.calibrate --workdir=DIR [TARGET] [--order=normalised] [--combine=NAME]
        [--temperature] [--step=N|best] [--data-dir=D] [--output=FILE]

TARGET is one of --max-accuracy-drop=D (below the highest precision alone, as a fraction; 0.005 by
default), --average-bits=B, --relative-cost=C, --key=P (with --order=precision_first: --key=BITS:P).
Writes DIR/operating_point.json. Exit status 3 if the target cannot be met: the file then holds the
nearest point, marked so.
"""

import itertools
from typing import Any

import rich.console

from dpoq_jax.cli import flags as shared
from dpoq_jax.cli.errors import fail, user_errors, warn
from dpoq_jax.cli.run import run
from dpoq_jax.runtime import files, workdir

_TARGETS = {
  'average_bits': 'bits at most, on average',
  'relative_cost': 'mean BitOPs at most, relative to the lowest precision',
  'max_accuracy_drop': 'below the highest precision alone, as a fraction',
}


def define_flags(flags: shared.FlagValues) -> None:
  """Defines the flags of the command."""
  from dpoq_jax.inference import combination, curve

  shared.define_workdir(flags)
  shared.define_step(flags)
  shared.define_data_dir(flags)
  shared.define_output(flags, 'file to write, instead of the one in the workdir')
  for kind, what in _TARGETS.items():
    shared.DEFINE_float(kind, None, what, flag_values=flags)
  shared.DEFINE_string('key', None, 'of the rerun curve, by hand: P, or BITS:P', flag_values=flags)
  shared.DEFINE_enum('order', 'normalised', curve.ORDERS, 'of the rerun curve', flag_values=flags)
  shared.DEFINE_enum(
    'combine', None, combination.COMBINATIONS,
    'what exits predict from; all are compared by default', flag_values=flags,
  )  # fmt: skip
  shared.DEFINE_bool('temperature', False, 'fit a temperature per precision', flag_values=flags)


def main(flags: shared.FlagValues) -> None:
  """Chooses an operating point, writes it and prints what it is worth."""
  directory = shared.required_path(flags, 'workdir')
  with user_errors():
    # Imported once there is something to do, since JAX takes seconds.
    workdir.read_config(directory)
    from dpoq_jax import from_run
    from dpoq_jax.inference import calibration, operating_point, tables

    target, precision = _target(flags)
    settings = calibration.Settings(
      target=operating_point.Target(**target) if target else calibration.DEFAULT_TARGET,
      order=flags.order,
      combine=flags.combine,
      scale_temperatures=flags.temperature,
      precision=precision,
    )
    if flags.step == 'best':
      warn('the best checkpoint was found on the whole test split, the reported half included.')
    trained = from_run.open_network(directory, shared.checkpoint_step(flags))
    examples = from_run.held_out(trained, flags.data_dir)
    compared = calibration.choose(
      examples.calibration,
      examples.reported,
      trained.network.bits,
      settings,
      dataset=trained.config.data.name,
      step=trained.step,
      activation_bits=trained.network.activation_bits,
    )
    best = compared[0]
    output = shared.optional_path(flags, 'output') or directory / operating_point.FILE
    files.write_whole(output, best.to_json())
    bits = trained.network.bits
    between = [(low + high) / 2 for low, high in itertools.pairwise(bits)]
    equal = calibration.equal_bits(
      best, examples.calibration, examples.reported, sorted([*bits, *between])
    )
    console = rich.console.Console()
    console.print(
      f'chosen on {examples.calibration.name}; reported on {examples.reported.name}', soft_wrap=True
    )
    console.print(tables.comparison(compared))
    console.print(tables.equal_bits(best, equal))
    console.print(tables.best(compared))
    console.print(f'written to {output}', soft_wrap=True)
  if not best.met:
    chosen_for = settings.target
    fail(
      f'{chosen_for.kind}={chosen_for.value:g} cannot be met on the calibration examples; the '
      f'nearest point was written to {output}, with "met": false.',
      status=3,
    )


def _target(flags: shared.FlagValues) -> tuple[dict[str, Any] | None, int | None]:
  """Returns the one target given, if any, and the precision that a key belongs to."""
  values: dict[str, Any] = {kind: flags[kind].value for kind in _TARGETS}
  given = {kind: value for kind, value in values.items() if value is not None}
  precision = None
  if flags.key is not None:
    bits, colon, key = flags.key.rpartition(':')
    try:
      given['key'], precision = float(key), int(bits) if colon else None
    except ValueError:
      raise ValueError(f'--key={flags.key}: give a confidence, or BITS:CONFIDENCE.') from None
  if len(given) > 1:
    raise ValueError(f'--{" and --".join(given)} given: give one target.')
  if not given:
    return None, None
  ((kind, value),) = given.items()
  if not 0 <= value < float('inf'):
    raise ValueError(f'--{kind}={value}: give a number from 0 up.')
  if kind == 'max_accuracy_drop' and value >= 1:
    raise ValueError(f'--{kind}={value}: give a fraction, below 1; half a point is 0.005.')
  return {'kind': kind, 'value': value}, precision


if __name__ == '__main__':
  run(define_flags, main)
