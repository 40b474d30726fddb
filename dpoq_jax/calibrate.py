"""Chooses an operating point for dynamic inference, and says what it is worth.

    dpoq calibrate --workdir=DIR [TARGET] [--order=normalised] [--combine=NAME]
        [--temperature] [--confidence=P] [--split-seed=0] [--step=N|best] [--data-dir=D]
        [--output=FILE] [--force]

TARGET is one of --max-accuracy-drop=D (below the highest precision alone, as a fraction; 0.005 by
default), --average-bits=B, --relative-cost=C, --key=P (with --order=precision_first: --key=BITS:P).
A target is met on the examples chosen on; with --confidence=0.9 new data keep to the accuracy drop
with that probability. Writes DIR/operating_point.json. Exit status 3 if the target cannot be met,
or not be promised: the file then holds the nearest point, marked so, but one that met its target is
kept. --force replaces that, too, and --output=FILE has the nearest point beside it.

    dpoq calibrate --workdir=runs/digits --max-accuracy-drop=0.01
"""

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any

from dpoq_jax.cli import flags as shared
from dpoq_jax.cli import spelling
from dpoq_jax.cli.errors import fail, user_errors, warn
from dpoq_jax.cli.run import run
from dpoq_jax.runtime import files, workdir
from dpoq_jax.runtime.console import Console

if TYPE_CHECKING:
  from dpoq_jax.inference.operating_point import OperatingPoint

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
  shared.DEFINE_float(
    'confidence', None,
    'probability with which new data are to keep to the accuracy drop; no promise by default',
    flag_values=flags,
  )  # fmt: skip
  shared.define_split_seed(flags)
  shared.DEFINE_bool(
    'force', False, 'replace a point that met its target by one that does not', flag_values=flags
  )
  shared.DEFINE_bool('temperature', False, 'fit a temperature per precision', flag_values=flags)


def main(flags: shared.FlagValues) -> None:
  """Chooses an operating point, writes it and prints what it is worth."""
  directory = shared.required_path(flags, 'workdir')
  with user_errors(data_flag=shared.DATA_DIR):
    # Imported once there is something to do, since JAX takes seconds.
    workdir.read_config(directory)
    from dpoq_jax import from_run
    from dpoq_jax.inference import calibration, operating_point, tables
    from dpoq_jax.inference.examples import alone

    target, precision = _target(flags)
    settings = calibration.Settings(
      target=operating_point.Target(**target) if target else calibration.DEFAULT_TARGET,
      order=flags.order,
      combine=flags.combine,
      scale_temperatures=flags.temperature,
      precision=precision,
      confidence=flags.confidence,
    )
    if flags.step == 'best':
      warn('the best checkpoint was found on the whole test split, the reported half included.')
    trained = from_run.open_network(directory, shared.checkpoint_step(flags))
    examples = from_run.held_out(trained, flags.data_dir, flags.split_seed or 0)
    if flags.split_seed is not None and examples.split_seed is None:
      warn('--split-seed has no effect: this run held examples out of training, nothing is halved.')

    def choose(settings: calibration.Settings) -> list[operating_point.OperatingPoint]:
      """Chooses operating points on these examples, the best first."""
      return calibration.choose(
        examples.calibration,
        examples.reported,
        trained.network.bits,
        settings,
        dataset=trained.config.data.name,
        step=trained.step,
        bitops=from_run.bitops(trained.network, trained.facts.image_shape),
        split_seed=examples.split_seed,
      )

    compared = choose(dataclasses.replace(settings, confidence=None))
    promised = None if settings.confidence is None else choose(settings)[0]
    kept = promised or compared[0]
    output = shared.optional_path(flags, 'output') or directory / operating_point.FILE
    written = kept.met or flags.force or not operating_point.is_met(output)
    if written:
      files.write_whole(output, kept.to_json())
    bits = trained.network.bits
    between = [(low + high) / 2 for low, high in itertools.pairwise(bits)]
    equal = calibration.equal_bits(
      kept, examples.calibration, examples.reported, sorted([*bits, *between])
    )
    console = Console()
    console.print(
      f'chosen on {examples.calibration.name}; reported on {examples.reported.name}', soft_wrap=True
    )
    console.print(tables.comparison(compared, examples.calibration, examples.reported))
    if promised is not None:
      console.print(tables.promise(compared[0], promised, examples.reported))
    console.print(tables.equal_bits(kept, equal, examples.whole))
    console.print(tables.best(kept, len(compared) if promised is None else 1))
    if written:
      console.print(f'written to {output}', soft_wrap=True)
  if not kept.met:
    why = _unmet(kept, float(alone(examples.calibration)[-1].mean()))
    if written:
      fail(f'{why}; the nearest point was written to {output}, with "met": false.', status=3)
    fail(
      f'{why}; {output} is kept, as that point met its target: --output=FILE writes the nearest '
      'point elsewhere, --force replaces it.',
      status=3,
    )


def _unmet(point: 'OperatingPoint', reference: float) -> str:
  """Returns why a point does not meet its target, and what can be reached.

  Args:
    point: the nearest point.
    reference: accuracy of the highest precision alone on the calibration examples.
  """
  from dpoq_jax.inference import calibration

  assert point.target is not None
  assert point.expected is not None
  asked = f'{point.target.kind}={point.target.value:g}'
  if point.promise is None:
    least = calibration.reached(point.target, point.expected, reference)
    return f'{asked} cannot be met on the calibration examples, where {least:.4g} is the least'
  promise = point.promise
  asked += f' cannot be promised with confidence={promise.confidence:g}: '
  examples = f'on the {promise.bounded_on} calibration examples that bound it'
  if promise.examples_needed is None:
    return f'{asked}the drop is {promise.drop:.4f} {examples}, and more of them would not help'
  return (
    f'{asked}the drop is {promise.drop:.4f} {examples}, and may be {promise.bound:.4f}; as small a '
    f'drop needs about {promise.examples_needed} calibration examples'
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
    raise ValueError(f'{" and ".join(map(spelling.shown, given))} given: give one target.')
  if not given:
    return None, None
  ((kind, value),) = given.items()
  if not 0 <= value < float('inf'):
    raise ValueError(f'{spelling.shown(kind)}={value}: give a number from 0 up.')
  if kind == 'max_accuracy_drop' and value >= 1:
    raise ValueError(
      f'{spelling.shown(kind)}={value:g}: give a fraction below 1; 0.005 is half a point.'
    )
  return {'kind': kind, 'value': value}, precision


if __name__ == '__main__':
  run(define_flags, main)
