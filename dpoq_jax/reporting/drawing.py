"""Defines how the plots of the project look, and renders them as PNG and SVG."""

from collections.abc import Iterator, Mapping
import contextlib
import io
import re
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

INK = '#1f2328'
DASHES = ('-', (0, (6, 2)), (0, (2, 1.5)))
# The colour-blind can tell them apart, and all are visible on white and on near-black.
_COLOURS = ('#2f86d6', '#e08a1e', '#1f9e77', '#c9639f', '#8a74d6', '#a3861f', '#d1495b', '#5b8a8f')
_STYLE: Mapping[Any, Any] = {
  'axes.edgecolor': INK,
  'axes.facecolor': 'none',
  'axes.grid': True,
  'axes.labelcolor': INK,
  'axes.spines.right': False,
  'axes.spines.top': False,
  # SVG counts in points, of which there are 72 to an inch: pixels are then SVG units.
  'figure.dpi': 72,
  'figure.constrained_layout.use': True,
  'font.size': 11,
  'grid.alpha': 0.15,
  'grid.color': INK,
  'legend.frameon': False,
  'legend.fontsize': 10,
  'lines.linewidth': 1.8,
  'svg.fonttype': 'none',
  'text.color': INK,
  'xtick.color': INK,
  'ytick.color': INK,
}


class Plot(NamedTuple):
  """Holds a plot in two formats.

  Attributes:
    png: content of a PNG file.
    svg: an SVG element, whose ink is the text colour of the element around it.
  """

  png: bytes
  svg: str


@contextlib.contextmanager
def style(name: str) -> Iterator[None]:
  """Sets the style of the project inside a `with`; `name` is unique among the plots of a page."""
  with matplotlib.rc_context():
    # Undoes the user's own settings, so that the same input gives the same files everywhere.
    matplotlib.rcdefaults()
    matplotlib.rcParams.update(_STYLE)
    # Identifiers in the SVG derive from this: the same in every run, others in every plot.
    matplotlib.rcParams['svg.hashsalt'] = name
    yield


def render(figure: Figure) -> Plot:
  """Renders a figure in both formats, and fixes its layout so that positions can be read off."""
  figure.draw_without_rendering()
  figure.set_layout_engine('none')
  png, svg = io.BytesIO(), io.StringIO()
  figure.savefig(png, format='png', dpi=144, facecolor='white', metadata={'Software': None})
  nothing = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
  figure.savefig(svg, format='svg', facecolor='none', metadata=nothing)
  return Plot(png.getvalue(), _inline(svg.getvalue()))


def colour(index: int) -> str:
  """Returns the colour of a line, by its index from 0; colours repeat after eight lines."""
  return _COLOURS[index % len(_COLOURS)]


def _inline(svg: str) -> str:
  """Returns an SVG file as an element of a page, without prologue, fixed size and shared names."""
  svg = svg[svg.index('<svg') :].replace(INK, 'currentColor')
  svg = re.sub(r' (width|height)="[\d.]+pt"', '', svg, count=2)
  svg = re.sub(r' xmlns(:\w+)?="[^"]*"', '', svg)
  # Groups are called figure_1, axes_1 and so on in every plot; nothing refers to these names.
  return re.sub(r' id="[\w.]+_\d+"', '', svg)
