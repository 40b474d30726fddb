"""Measures Figures 3 and 5 of the paper: what dynamic inference is worth.

Figure 3 is of Table 1's system. Figure 5 is of the paper's onion and the recipe's, side by side.
"""

from collections.abc import Iterator, Mapping, Sequence
import pathlib

from dpoq_jax import from_run
from dpoq_jax.inference import calibration as calibration_lib
from dpoq_jax.inference import curve
from dpoq_jax.inference.operating_point import OperatingPoint, Target
from dpoq_jax.reporting import choices, plots
from dpoq_jax.reproduction import average_bits, charts, tables
from dpoq_jax.reproduction.cells import Cell, Scale
from dpoq_jax.reproduction.entries import Entry, entry
from dpoq_jax.reproduction.runs import Run
from dpoq_jax.training import trained_network

_FIGURE_3 = 'figure3'
FIGURES = (_FIGURE_3, average_bits.FIGURE)

# Accuracy by relative cost, with exits in the normalised order; the curve ends at b_K / b_1 = 8.
_PAPER_FIGURE_3 = {1.0: 65.3, 2.0: 70.0, 8.0: 71.8}


def runs_of(figure: str, scale: Scale) -> tuple[dict[str, Run], str]:
  """Returns the runs that a figure is about, by network, and the name of their network and data.

  Of a scale that has several architectures it is the last, which is the largest.

  Raises:
    ValueError: if the figure is not made at this scale.
  """
  tables.check_scale(figure, scale)
  table, systems = 'table1', ('scaled gradients + PSBN',)
  if figure == average_bits.FIGURE:
    table, systems = 'recipe', average_bits.NETWORKS
  cells = tables.cells(table, scale)
  part = cells[-1].part
  return {system: _first(cells, part, system).run for system in systems}, part


def _first(cells: Sequence[Cell], part: str, system: str) -> Cell:
  """Returns the first cell of a system in a part of a table, of its first seed."""
  return next(cell for cell in cells if (cell.part, cell.system) == (part, system))


def measure(
  figure: str, part: str, workdirs: Mapping[str, pathlib.Path], data_dir: str | None
) -> tuple[list[Entry], bytes]:
  """Measures a figure.

  Thresholds and weights are chosen on one half of the test set; accuracies are those on the other.

  Args:
    figure: one of `FIGURES`.
    part: name of network and data, for the table.
    workdirs: directories of the finished runs, by network; of Figure 5, those that there are.
    data_dir: directory of the data set; None is that of the runs.

  Returns:
    The numbers of the figure, and its plot as a PNG file.
  """
  networks = [_network(name, workdir, data_dir) for name, workdir in workdirs.items()]
  if figure == _FIGURE_3:
    return _figure3(part, networks[0])
  points = [average_bits.near_highest(network) for network in networks]
  drawn = charts.average_bits(networks, points)
  return list(average_bits.entries(part, networks, points)), drawn.png


def _network(name: str, workdir: pathlib.Path, data_dir: str | None) -> average_bits.Network:
  """Runs the network of a finished run on the examples that it was not trained on."""
  trained = trained_network.load(workdir)
  examples = from_run.held_out(trained, data_dir)
  return average_bits.Network(
    name,
    trained.network.bits,
    examples.calibration,
    examples.reported,
    trained.config.data.name,
    trained.step,
    from_run.bitops(trained.network, trained.facts.image_shape),
  )


def _figure3(part: str, network: average_bits.Network) -> tuple[list[Entry], bytes]:
  """Measures accuracies over costs, for each order of exits.

  Points are chosen under limits on the paper's cost, that of convolutions. What each really costs
  on the reported examples is measured beside it, so and with laterals.
  """
  calibration, reported = network.calibration, network.reported
  bits = network.bits

  def accuracies() -> Iterator[Entry]:
    """Yields the numbers of the figure."""
    costs = sorted({1.0, 2.0, *(b / bits[0] for b in bits)})
    for order in reversed(curve.ORDERS):
      for cost in costs:
        paper = _PAPER_FIGURE_3.get(cost) if order == 'normalised' else None
        settings = calibration_lib.Settings(
          target=Target(kind='relative_cost', value=cost), order=order, combine='mean'
        )
        point = network.choose(settings)
        assert point.reported is not None
        whole = point.model_copy(update={'bitops': network.bitops})
        with_laterals = calibration_lib.outcome(whole, reported).relative_cost
        name, at = order.replace('_', ' '), f'cost {cost:g}'
        yield entry(_FIGURE_3, part, name, at, [100 * point.reported.accuracy], paper)
        for what, spent in (
          ('its cost', point.reported.relative_cost),
          ('its cost with laterals', with_laterals),
        ):
          yield entry(_FIGURE_3, part, f'{name}: {what}', at, [spent], None)

  point: OperatingPoint = network.choose(calibration_lib.Settings())
  evaluated = choices.evaluated_exits(point, calibration, reported)
  offered = [
    choices.choices_of_order(point, order, calibration, evaluated, 2) for order in curve.ORDERS
  ]
  drawn, _ = plots.rerun_curves(offered, choices.with_outcomes(point, evaluated))
  return list(accuracies()), drawn.png
