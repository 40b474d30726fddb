"""How the project's plots look, whatever they show."""

from collections.abc import Iterator, Mapping
import contextlib
import io
import re
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

INK = '#1f2328'
DASHES = ('-', (0, (6, 2)), (0, (2, 1.5)))
# Apart for the colour-blind, and visible on white as on near-black.
_COLOURS = ('#2f86d6', '#e08a1e', '#1f9e77', '#c9639f', '#8a74d6', '#a3861f', '#d1495b', '#5b8a8f')
_STYLE: Mapping[Any, Any] = {
  'axes.edgecolor': INK,
  'axes.facecolor': 'none',
  'axes.grid': True,
  'axes.labelcolor': INK,
  'axes.spines.right': False,
  'axes.spines.top': False,
  # SVG counts in points: pixels and SVG units are the same at this resolution.
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
  """A plot.

  Attributes:
    png: a PNG file.
    svg: an SVG element; its ink is the text colour of the element around it.
  """

  png: bytes
  svg: str


@contextlib.contextmanager
def style(name: str) -> Iterator[None]:
  """Draws in the project's style inside; `name` is the plot's own among those of a page."""
  with matplotlib.rc_context():
    # Whatever the user's own settings are: the same input is to give the same files.
    matplotlib.rcdefaults()
    matplotlib.rcParams.update(_STYLE)
    # Identifiers in an SVG: the same in every run, others in every plot of a page.
    matplotlib.rcParams['svg.hashsalt'] = name
    yield


def render(figure: Figure) -> Plot:
  """Both files of a figure, which afterwards stays laid out as it is in them."""
  figure.draw_without_rendering()
  figure.set_layout_engine('none')
  png, svg = io.BytesIO(), io.StringIO()
  figure.savefig(png, format='png', dpi=144, facecolor='white', metadata={'Software': None})
  nothing = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
  figure.savefig(svg, format='svg', facecolor='none', metadata=nothing)
  return Plot(png.getvalue(), _inline(svg.getvalue()))


def colour(index: int) -> str:
  """Of the line of this number, from 0; they repeat after eight."""
  return _COLOURS[index % len(_COLOURS)]


def _inline(svg: str) -> str:
  """What a page can hold of an SVG file: no prologue, no fixed size, no identifiers twice."""
  svg = svg[svg.index('<svg') :].replace(INK, 'currentColor')
  svg = re.sub(r' (width|height)="[\d.]+pt"', '', svg, count=2)
  svg = re.sub(r' xmlns(:\w+)?="[^"]*"', '', svg)
  # Names of groups that nothing refers to: figure_1, axes_1 and so on, the same in every plot.
  return re.sub(r' id="[\w.]+_\d+"', '', svg)
