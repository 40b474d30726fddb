"""The plots of a report, each as PNG and as SVG for a page whose colours they take on."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import io
import re
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator, PercentFormatter
import numpy as np

from dpoq_jax.inference.calibration import EqualBits
from dpoq_jax.inference.operating_point import OperatingPoint
from dpoq_jax.inference.selectable import Selectable, spread

_INK = '#1f2328'
# Apart for the colour-blind, and visible on white as on near-black.
_COLOURS = ('#2f86d6', '#e08a1e', '#1f9e77', '#c9639f', '#8a74d6', '#a3861f', '#d1495b', '#5b8a8f')
_DASHES = ('-', (0, (6, 2)), (0, (2, 1.5)))
_CURVE_POINTS = 1000
_STYLE: Mapping[Any, Any] = {
  'axes.edgecolor': _INK,
  'axes.facecolor': 'none',
  'axes.grid': True,
  'axes.labelcolor': _INK,
  'axes.spines.right': False,
  'axes.spines.top': False,
  # SVG counts in points: pixels and SVG units are the same at this resolution.
  'figure.dpi': 72,
  'figure.constrained_layout.use': True,
  'font.size': 11,
  'grid.alpha': 0.15,
  'grid.color': _INK,
  'legend.frameon': False,
  'legend.fontsize': 10,
  'lines.linewidth': 1.8,
  'svg.fonttype': 'none',
  'text.color': _INK,
  'xtick.color': _INK,
  'ytick.color': _INK,
}


class Plot(NamedTuple):
  """A plot.

  Attributes:
    png: a PNG file.
    svg: an SVG element; its ink is the text colour of the element around it.
  """

  png: bytes
  svg: str


def training(rows: Sequence[Mapping[str, Any]]) -> Plot:
  """Loss and top-1 of every precision over epochs, of training batches and of the test examples.

  Args:
    rows: of `metrics.jsonl`.
  """
  with _style('training'):
    figure = Figure(figsize=(6, 6.5))
    for panel, (name, label) in enumerate((('loss', 'loss (nats)'), ('top1', 'top-1 accuracy'))):
      axes = figure.add_subplot(2, 1, panel + 1)
      for kind in ('train', 'eval'):
        of_kind = [row for row in rows if row.get('kind') == kind and name in row]
        precisions = sorted({int(bits) for row in of_kind for bits in row[name]})
        for index, bits in enumerate(precisions):
          values = [_number(row[name], bits) for row in of_kind]
          (line,) = axes.plot([row['epoch'] for row in of_kind], values, color=_colour(index))
          if kind == 'eval':
            line.set(marker='o', markersize=4, label=f'{bits} bits, test')
          else:
            line.set(linewidth=1, linestyle=_DASHES[2], label=f'{bits} bits, training')
      axes.set(xlabel='epoch', ylabel=label)
      if name == 'top1':
        axes.yaxis.set_major_formatter(PercentFormatter(1))
      if axes.lines:
        axes.legend(ncols=2)
      else:
        axes.text(0.5, 0.5, 'nothing recorded', transform=axes.transAxes, ha='center')
    return _render(figure)


def accuracy_vs_bits(rows: Sequence[EqualBits], point: OperatingPoint) -> Plot:
  """Static, ensemble and dynamic accuracy against average bits (Figure 5), reported examples.

  Args:
    rows: with and without a precision of so many bits.
    point: the current operating point, with its outcomes.
  """
  with _style('accuracy_vs_bits'):
    figure = Figure(figsize=(6, 4.2))
    axes = figure.add_subplot()
    whole = [row for row in rows if row.static is not None]
    bits = [row.bits for row in whole]
    dynamic = sorted((row.dynamic_bits, row.dynamic) for row in rows)
    axes.plot(*zip(*dynamic, strict=True), color=_colour(0), label='dynamic')
    for index, (marker, name) in enumerate((('s', 'static'), ('^', 'ensemble'))):
      values = [getattr(row, name) for row in whole]
      axes.plot(
        bits, values, color=_colour(index + 1), marker=marker, linestyle=_DASHES[1], label=name
      )
    assert point.reported is not None
    _star(axes, point.reported.average_bits, point.reported.accuracy)
    axes.set_xscale('log', base=2)
    axes.xaxis.set(major_locator=FixedLocator(bits), minor_locator=NullLocator())
    axes.xaxis.set_major_formatter(FixedFormatter([f'{each:g}' for each in bits]))
    axes.set(xlabel='average bits', ylabel='top-1 accuracy')
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend()
    return _render(figure)


def rerun_curves(
  selectable: Sequence[Selectable], point: OperatingPoint
) -> tuple[Plot, list[list[tuple[float, float]]]]:
  """Accuracy against relative cost, one curve per order (Figure 3), calibration examples.

  Args:
    selectable: one for each order.
    point: the current operating point, with its outcomes.

  Returns:
    The plot, and where in its SVG the selectable points of each order are: (x, y) from its upper
    left corner. The curve of an order is the SVG element of the identifier `curve-ORDER`.
  """
  with _style('rerun_curves'):
    figure = Figure(figsize=(6, 4.2))
    axes = figure.add_subplot()
    for index, (rerun, _, _) in enumerate(selectable):
      states = spread(rerun, _CURVE_POINTS)
      axes.plot(
        rerun.cost[states], rerun.accuracy[states], color=_colour(index),
        linestyle=_DASHES[index % len(_DASHES)], label=rerun.order.replace('_', ' '),
        gid=f'curve-{rerun.order}', marker='.' if len(states) == 1 else None,
      )  # fmt: skip
    assert point.expected is not None
    _star(axes, point.expected.relative_cost, point.expected.accuracy)
    axes.set(xlabel='cost (BitOPs, relative to the lowest precision)', ylabel='top-1 accuracy')
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(loc='lower right')
    plot = _render(figure)
    height = figure.bbox.height
    places = []
    for _, points, _ in selectable:
      outcomes = [each.expected for each in points if each.expected is not None]
      pixels = axes.transData.transform([(each.relative_cost, each.accuracy) for each in outcomes])
      places.append([(round(float(x), 2), round(float(height - y), 2)) for x, y in pixels])
    return plot, places


def exits(point: OperatingPoint) -> Plot:
  """Share of the inputs that leave at each precision.

  Args:
    point: the current operating point, with its outcomes.
  """
  with _style('exits'):
    figure = Figure(figsize=(6, 4.2))
    axes = figure.add_subplot()
    places = np.arange(len(point.bits))
    both = (('calibration examples', point.expected), ('reported examples', point.reported))
    for index, (label, outcome) in enumerate(both):
      assert outcome is not None
      bars = axes.bar(
        places + 0.4 * (index - 0.5), tuple(outcome.exits.values()), 0.4, label=label,
        color=_colour(index),
      )  # fmt: skip
      axes.bar_label(bars, fmt=lambda share: f'{share:.1%}', fontsize=10, padding=1)
    axes.set_xticks(places, [str(bits) for bits in point.bits])
    axes.grid(visible=False, axis='x')
    axes.set(xlabel='bits of the precision left at', ylabel='share of inputs')
    axes.set_ylim(0, 1.18)
    axes.yaxis.set_major_locator(FixedLocator(np.linspace(0, 1, 6).tolist()))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(loc='upper center', ncols=2)
    return _render(figure)


@contextlib.contextmanager
def _style(name: str) -> Iterator[None]:
  with matplotlib.rc_context():
    # Whatever the user's own settings are: the same input is to give the same files.
    matplotlib.rcdefaults()
    matplotlib.rcParams.update(_STYLE)
    # Identifiers in an SVG: the same in every run, others in every plot of a page.
    matplotlib.rcParams['svg.hashsalt'] = name
    yield


def _render(figure: Figure) -> Plot:
  """Both files of a figure, which afterwards stays laid out as it is in them."""
  figure.draw_without_rendering()
  figure.set_layout_engine('none')
  png, svg = io.BytesIO(), io.StringIO()
  figure.savefig(png, format='png', dpi=144, facecolor='white', metadata={'Software': None})
  nothing = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
  figure.savefig(svg, format='svg', facecolor='none', metadata=nothing)
  return Plot(png.getvalue(), _inline(svg.getvalue()))


def _inline(svg: str) -> str:
  """What a page can hold of an SVG file: no prologue, no fixed size, no identifiers twice."""
  svg = svg[svg.index('<svg') :].replace(_INK, 'currentColor')
  svg = re.sub(r' (width|height)="[\d.]+pt"', '', svg, count=2)
  svg = re.sub(r' xmlns(:\w+)?="[^"]*"', '', svg)
  # Names of groups that nothing refers to: figure_1, axes_1 and so on, the same in every plot.
  return re.sub(r' id="[\w.]+_\d+"', '', svg)


def _colour(index: int) -> str:
  return _COLOURS[index % len(_COLOURS)]


def _number(by_precision: Mapping[Any, Any], bits: int) -> float:
  value = by_precision.get(str(bits), by_precision.get(bits))
  return float('nan') if value is None else float(value)


def _star(axes: Axes, x: float, y: float) -> None:
  label = 'operating point'
  axes.plot(x, y, color=_INK, marker='*', markersize=12, linestyle='', label=label, zorder=3)
