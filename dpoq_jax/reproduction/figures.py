"""Measures Figures 3 and 5 of the paper: what dynamic inference is worth for Table 1's system."""

from collections.abc import Iterator
import pathlib

from dpoq_jax import from_run
from dpoq_jax.inference import calibration as calibration_lib
from dpoq_jax.inference import combination, curve
from dpoq_jax.inference.operating_point import OperatingPoint, Target
from dpoq_jax.reporting import choices, plots
from dpoq_jax.reproduction import results, tables
from dpoq_jax.reproduction.cells import Scale
from dpoq_jax.reproduction.runs import Run
from dpoq_jax.training import trained_network

FIGURES = ('figure3', 'figure5')

# Accuracy by relative cost, with exits in the normalised order; the curve ends at b_K / b_1 = 8.
_PAPER_FIGURE_3 = {1.0: 65.3, 2.0: 70.0, 8.0: 71.8}


def run_of(scale: Scale) -> tuple[Run, str]:
  """Returns the run that the figures are about, and the name of its network and data."""
  cell = next(
    each
    for each in tables.cells('table1', scale)
    if each.system == 'scaled gradients + PSBN' and each.run.seed == 0
  )
  return cell.run, cell.part


def measure(
  figure: str, part: str, workdir: pathlib.Path, data_dir: str | None
) -> tuple[list[results.Entry], bytes]:
  """Measures a figure.

  Thresholds and weights are chosen on one half of the test set; accuracies are those on the other.

  Args:
    figure: one of `FIGURES`.
    part: name of network and data, for the table.
    workdir: directory of the finished run.
    data_dir: directory of the data set; None is that of the run.

  Returns:
    The numbers of the figure, and its plot as a PNG file.
  """
  trained = trained_network.load(workdir)
  examples = from_run.held_out(trained, data_dir)
  bits = trained.network.bits

  def choose(
    target: Target, order: curve.Order, combine: combination.Combination | None
  ) -> OperatingPoint:
    """Chooses thresholds that meet a target."""
    return calibration_lib.choose(
      examples.calibration,
      examples.reported,
      bits,
      calibration_lib.Settings(target=target, order=order, combine=combine),
      dataset=trained.config.data.name,
      step=trained.step,
    )[0]

  def at_cost(cost: float, order: curve.Order, combine: combination.Combination) -> float:
    """Returns the accuracy of dynamic inference at a cost, in percent."""
    point = choose(Target(kind='relative_cost', value=cost), order, combine)
    assert point.reported is not None
    return 100 * point.reported.accuracy

  def figure3() -> Iterator[results.Entry]:
    """Yields accuracies over costs, for each order of exits."""
    costs = sorted({1.0, 2.0, *(b / bits[0] for b in bits)})
    for order in reversed(curve.ORDERS):
      for cost in costs:
        paper = _PAPER_FIGURE_3.get(cost) if order == 'normalised' else None
        value = at_cost(cost, order, 'mean')
        name = order.replace('_', ' ')
        yield results.entry(figure, part, name, f'cost {cost:g}', [value], paper)

  def figure5() -> Iterator[results.Entry]:
    """Yields accuracies over average bits, static and dynamic."""
    static = calibration_lib.alone(examples.reported).mean(axis=1)
    for b, accuracy in zip(bits, static, strict=True):
      yield results.entry(figure, part, 'static', f'{b} bits', [100 * float(accuracy)], None)
    for combine in combination.COMBINATIONS:
      for b in bits:
        value = at_cost(b / bits[0], 'normalised', combine)
        yield results.entry(figure, part, f'dynamic, {combine}', f'{b} bits', [value], None)

  point = choose(calibration_lib.DEFAULT_TARGET, 'normalised', None)
  evaluated = choices.evaluated_exits(point, examples.calibration, examples.reported)
  if figure == 'figure3':
    offered = [
      choices.choices_of_order(point, order, examples.calibration, evaluated, 2)
      for order in curve.ORDERS
    ]
    drawn, _ = plots.rerun_curves(offered, choices.with_outcomes(point, evaluated))
    return list(figure3()), drawn.png
  between = [b * f for b in bits[:-1] for f in (1, 1.25, 1.5, 1.75)] + [bits[-1]]
  equal = calibration_lib.equal_bits(
    point, examples.calibration, examples.reported, sorted(map(float, set(between)))
  )
  return list(figure5()), plots.accuracy_vs_bits(list(equal), point).png
