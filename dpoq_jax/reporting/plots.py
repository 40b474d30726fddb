"""Draws the plots of a report, each as PNG and as SVG that takes on the colours of its page."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator, PercentFormatter
import numpy as np

from dpoq_jax.inference import curve
from dpoq_jax.inference.calibration import EqualBits
from dpoq_jax.inference.operating_point import OperatingPoint
from dpoq_jax.reporting import drawing
from dpoq_jax.reporting.choices import Choices

# States drawn of a rerun curve, at most: more than a figure has pixels.
_CURVE_POINTS = 1000


def training(rows: Sequence[Mapping[str, Any]]) -> drawing.Plot:
  """Draws loss and top-1 of every precision over epochs, on training batches and test examples.

  Args:
    rows: rows of `metrics.jsonl`.
  """
  with drawing.style('training'):
    figure = Figure(figsize=(6, 6.5))
    for panel, (name, label) in enumerate((('loss', 'loss (nats)'), ('top1', 'top-1 accuracy'))):
      axes = figure.add_subplot(2, 1, panel + 1)
      for kind in ('train', 'eval'):
        of_kind = [row for row in rows if row.get('kind') == kind and name in row]
        precisions = sorted({int(bits) for row in of_kind for bits in row[name]})
        for index, bits in enumerate(precisions):
          values = [_number(row[name], bits) for row in of_kind]
          (line,) = axes.plot(
            [row['epoch'] for row in of_kind], values, color=drawing.colour(index)
          )
          if kind == 'eval':
            line.set(marker='o', markersize=4, label=f'{bits} bits, test')
          else:
            line.set(linewidth=1, linestyle=drawing.DASHES[2], label=f'{bits} bits, training')
      axes.set(xlabel='epoch', ylabel=label)
      if name == 'top1':
        axes.yaxis.set_major_formatter(PercentFormatter(1))
      if axes.lines:
        axes.legend(ncols=2)
      else:
        axes.text(0.5, 0.5, 'nothing recorded', transform=axes.transAxes, ha='center')
    return drawing.render(figure)


def accuracy_vs_bits(equal: Sequence[EqualBits], point: OperatingPoint) -> drawing.Plot:
  """Draws static, ensemble and dynamic accuracy against average bits (Figure 5).

  Args:
    equal: accuracies on the reported examples, by increasing bits.
    point: the current operating point, with its outcomes.
  """
  with drawing.style('accuracy_vs_bits'):
    figure = Figure(figsize=(6, 4.2))
    axes = figure.add_subplot()
    whole = [each for each in equal if each.static is not None]
    bits = [each.bits for each in whole]
    dynamic = sorted((each.dynamic_bits, each.dynamic) for each in equal)
    axes.plot(*zip(*dynamic, strict=True), color=drawing.colour(0), label='dynamic')
    for index, (marker, name) in enumerate((('s', 'static'), ('^', 'ensemble'))):
      values = [getattr(each, name) for each in whole]
      axes.plot(
        bits,
        values,
        color=drawing.colour(index + 1),
        marker=marker,
        linestyle=drawing.DASHES[1],
        label=name,
      )
    assert point.reported is not None
    _star(axes, point.reported.average_bits, point.reported.accuracy)
    axes.set_xscale('log', base=2)
    axes.xaxis.set(major_locator=FixedLocator(bits), minor_locator=NullLocator())
    axes.xaxis.set_major_formatter(FixedFormatter([f'{each:g}' for each in bits]))
    axes.set(xlabel='average bits', ylabel='top-1 accuracy')
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend()
    return drawing.render(figure)


def rerun_curves(
  offered: Sequence[Choices], point: OperatingPoint
) -> tuple[drawing.Plot, list[list[tuple[float, float]]]]:
  """Draws accuracy against relative cost on the calibration examples (Figure 3).

  Args:
    offered: choices along one curve for each order.
    point: the current operating point, with its outcomes.

  Returns:
    The plot, and the positions of the choices of each order in its SVG: (x, y) from the upper left
    corner. The curve of an order is the SVG element with the identifier `curve-ORDER`.
  """
  with drawing.style('rerun_curves'):
    figure = Figure(figsize=(6, 4.2))
    axes = figure.add_subplot()
    for index, (rerun, _, _) in enumerate(offered):
      states = curve.evenly_spread_states(rerun, _CURVE_POINTS)
      axes.plot(
        rerun.cost[states], rerun.accuracy[states], color=drawing.colour(index),
        linestyle=drawing.DASHES[index % len(drawing.DASHES)], label=rerun.order.replace('_', ' '),
        gid=f'curve-{rerun.order}', marker='.' if len(states) == 1 else None,
      )  # fmt: skip
    assert point.expected is not None
    _star(axes, point.expected.relative_cost, point.expected.accuracy)
    axes.set(xlabel='cost (BitOPs, relative to the lowest precision)', ylabel='top-1 accuracy')
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(loc='lower right')
    plot = drawing.render(figure)
    height = figure.bbox.height
    places = []
    for _, points, _ in offered:
      outcomes = [each.expected for each in points if each.expected is not None]
      pixels = axes.transData.transform([(each.relative_cost, each.accuracy) for each in outcomes])
      places.append([(round(float(x), 2), round(float(height - y), 2)) for x, y in pixels])
    return plot, places


def exits(point: OperatingPoint) -> drawing.Plot:
  """Draws the share of the inputs that leave at each precision.

  Args:
    point: the current operating point, with its outcomes.
  """
  with drawing.style('exits'):
    figure = Figure(figsize=(6, 4.2))
    axes = figure.add_subplot()
    places = np.arange(len(point.bits))
    both = (('calibration examples', point.expected), ('reported examples', point.reported))
    for index, (label, outcome) in enumerate(both):
      assert outcome is not None
      bars = axes.bar(
        places + 0.4 * (index - 0.5), tuple(outcome.exits.values()), 0.4, label=label,
        color=drawing.colour(index),
      )  # fmt: skip
      axes.bar_label(bars, fmt=lambda share: f'{share:.1%}', fontsize=10, padding=1)
    axes.set_xticks(places, [str(bits) for bits in point.bits])
    axes.grid(visible=False, axis='x')
    axes.set(xlabel='bits of the precision left at', ylabel='share of inputs')
    axes.set_ylim(0, 1.18)
    axes.yaxis.set_major_locator(FixedLocator(np.linspace(0, 1, 6).tolist()))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(loc='upper center', ncols=2)
    return drawing.render(figure)


def _number(by_precision: Mapping[Any, Any], bits: int) -> float:
  """Returns the value of a precision, whose key is text in a file; NaN if there is none."""
  value = by_precision.get(str(bits), by_precision.get(bits))
  return float('nan') if value is None else float(value)


def _star(axes: Axes, x: float, y: float) -> None:
  """Marks the current operating point."""
  label = 'operating point'
  axes.plot(x, y, color=drawing.INK, marker='*', markersize=12, linestyle='', label=label, zorder=3)
