"""Draws tables: accuracies over precisions, and rows of dots; and Figure 5 of several networks."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from dpoq_jax.inference.operating_point import OperatingPoint
from dpoq_jax.reporting import drawing
from dpoq_jax.reproduction import average_bits as average_bits_lib
from dpoq_jax.reproduction.entries import Entry

# Markers of operating points: the highest accuracy, and those near it.
_MARKERS = '*^v'


def lines(table: str, entries: Sequence[Entry]) -> drawing.Plot:
  """Draws the accuracy of every system over the columns, ours left and the paper's right."""
  parts = list(dict.fromkeys(each.part for each in entries))
  with drawing.style(table):
    figure = Figure(figsize=(11, 4.4 * len(parts)))
    panels = figure.subplots(len(parts), 2, squeeze=False)
    for part, (left, right) in zip(parts, panels, strict=True):
      of_part = [each for each in entries if each.part == part]
      columns = list(dict.fromkeys(each.at for each in of_part))
      for number, system in enumerate(dict.fromkeys(each.system for each in of_part)):
        row = [each for each in of_part if each.system == system]
        look = {
          'color': drawing.colour(number),
          'marker': 'os^v'[number % 4],
          'linestyle': drawing.DASHES[number // 8 % len(drawing.DASHES)],
          'label': system,
        }
        places = [columns.index(each.at) for each in row]
        spread = [each.spread or 0.0 for each in row]
        left.errorbar(places, [each.ours for each in row], spread, **look)
        theirs = [(columns.index(e.at), e.paper) for e in row if e.paper is not None]
        if len(theirs) > 0:
          right.plot(*zip(*theirs, strict=True), **look)
      left.set(title=part, ylabel='top-1 (%)')
      right.set(title="the paper's")
      for axes in (left, right):
        axes.set_xticks(range(len(columns)), columns)
      left.legend(fontsize=8, loc='lower right')
    return drawing.render(figure)


def dots(
  table: str, entries: Sequence[Entry], columns: Sequence[str], reference: str | None
) -> drawing.Plot:
  """Draws each row as dots with standard deviations, a panel for each column.

  Args:
    table: name of the table.
    entries: its numbers, in the order of rows.
    columns: columns, in their order.
    reference: row at whose value a line is drawn, if any.
  """
  parts = list(dict.fromkeys(each.part for each in entries))
  columns = [at for at in columns if any(each.at == at for each in entries)]
  rows = [list(dict.fromkeys(e.system for e in entries if e.part == part)) for part in parts]
  with drawing.style(table):
    figure = Figure(figsize=(5 + 2.6 * len(columns), sum(0.8 + 0.27 * len(each) for each in rows)))
    panels = figure.subplots(
      len(parts),
      len(columns),
      squeeze=False,
      sharey='row',
      height_ratios=[2 + len(each) for each in rows],
    )
    for part, systems, of_part in zip(parts, rows, panels, strict=True):
      for at, axes in zip(columns, of_part, strict=True):
        for each in entries:
          if (each.part, each.at) == (part, at):
            is_reference = each.system == reference
            axes.errorbar(
              each.ours,
              systems.index(each.system),
              xerr=each.spread or 0.0,
              marker='o',
              color=drawing.colour(1 if is_reference else 0),
            )
            if is_reference:
              axes.axvline(each.ours, linestyle=drawing.DASHES[1], color=drawing.colour(1))
        axes.set_title(at)
      of_part[0].set_yticks(range(len(systems)), systems)
      of_part[0].invert_yaxis()
      of_part[0].set_xlabel(f'top-1 (%), {part}', loc='left')
    return drawing.render(figure)


def average_bits(
  networks: Sequence[average_bits_lib.Network], points: Sequence[Mapping[str, OperatingPoint]]
) -> drawing.Plot:
  """Draws accuracy over average bits, static and dynamic, of the networks that there are.

  Args:
    networks: networks of the figure.
    points: operating points of each, as `average_bits.near_highest` returns them.
  """
  with drawing.style(average_bits_lib.FIGURE):
    figure = Figure(figsize=(7, 5))
    axes = figure.add_subplot()
    for number, (network, near) in enumerate(zip(networks, points, strict=True)):
      colour = drawing.colour(number)
      curve = [(bits, 100 * top1) for bits, top1 in network.curve(near['highest'])]
      axes.plot(*zip(*curve, strict=True), color=colour, label=f'{network.name}: dynamic')
      static = [(bits, 100 * top1) for bits, top1 in network.static().items()]
      axes.plot(
        *zip(*static, strict=True),
        color=colour,
        marker='s',
        linestyle=drawing.DASHES[1],
        label=f'{network.name}: static',
      )
      for point, marker in zip(near.values(), _MARKERS, strict=True):
        assert point.reported is not None
        place = point.reported.average_bits, 100 * point.reported.accuracy
        axes.plot(*place, color=colour, marker=marker, markersize=11, zorder=3)
    # Named once, for all networks.
    for name, marker in zip(points[0], _MARKERS, strict=True):
      axes.plot([], [], color=drawing.INK, marker=marker, linestyle='', label=f'dynamic: {name}')
    absent = average_bits_lib.missing([network.name for network in networks])
    if absent:
      axes.set_title(f'missing: {"; ".join(absent)}', loc='left', fontsize=10)
    bits = sorted({b for network in networks for b in network.bits})
    axes.set_xscale('log', base=2)
    axes.xaxis.set(major_locator=FixedLocator(bits), minor_locator=NullLocator())
    axes.xaxis.set_major_formatter(FixedFormatter([str(b) for b in bits]))
    axes.set(xlabel='average bits', ylabel='top-1 (%)')
    figure.legend(fontsize=9, loc='outside lower center', ncols=2)
    return drawing.render(figure)
