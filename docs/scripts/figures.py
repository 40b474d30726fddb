"""Draws the figures of the concepts page from the library's own functions and committed results.

    python docs/scripts/figures.py

A test keeps the files in docs/figures/ equal to this.
"""

from collections.abc import Callable, Mapping
import io
import itertools
import json
import pathlib
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
import numpy as np

from dpoq_jax import CifarResNet, Onion, onion
from dpoq_jax.network import costs
from dpoq_jax.reporting import drawing

_ROOT = pathlib.Path(__file__).parents[2]
FOLDER = _ROOT / 'docs' / 'figures'
_BITS = (2, 4, 8)
_ACTIVATION_BITS = 8


def levels() -> Figure:
  """Draws the values of the 2- and 4-bit weights, and which of the latter a former stands for."""
  figure = Figure((7.6, 2.6))
  axes = figure.subplots()
  packed = onion.pack((np.repeat(np.arange(4), 4), np.tile(np.arange(4), 4)), (2, 4))
  high = onion.value(packed, 4)
  # Up to the scale that the nesting identity gives the coarser weight.
  scale, _ = onion.merge_factors(2, 2)
  low = scale * onion.value(onion.truncate(packed, (2, 4), to=2), 2)
  for below, above in zip(low, high, strict=True):
    axes.plot([below, above], [1, 0], color=drawing.INK, alpha=0.3, linewidth=1)
  axes.plot(low, np.ones_like(low), 'o', color=drawing.colour(0), markersize=9)
  axes.plot(high, np.zeros_like(high), 'o', color=drawing.colour(1), markersize=6)
  axes.set_yticks([0, 1], ['4 bits', '2 bits'])
  axes.set_ylim(-0.3, 1.3)
  axes.set_xlabel('value of the weight, in units of the 4-bit scale')
  axes.grid(visible=False)
  return figure


def paths() -> Figure:
  """Draws the paths of an onion, what they hand up, and a companion."""
  figure = Figure((7.6, 4.0))
  axes = figure.subplots()
  axes.set_axis_off()
  axes.set_xlim(-2.2, 9.3)
  axes.set_ylim(-0.8, 3.7)
  columns = (1.2, 3.6, 6.0)

  def box(x: float, y: float, text: str, colour: str, *, dashed: bool = False) -> None:
    axes.add_patch(
      FancyBboxPatch(
        (x - 0.85, y - 0.28),
        *(1.7, 0.56),
        boxstyle='round,pad=0.04',
        facecolor='white',
        edgecolor=colour,
        linestyle='--' if dashed else '-',
        linewidth=1.6,
      )
    )
    axes.text(x, y, text, ha='center', va='center', fontsize=9)

  def arrow(start: tuple[float, float], end: tuple[float, float], colour: str, **how: Any) -> None:
    axes.add_patch(
      FancyArrowPatch(start, end, arrowstyle='-|>', mutation_scale=9, color=colour, **how)
    )

  for k, (bits, width) in enumerate(zip(_BITS, onion.ring_widths(_BITS), strict=True)):
    colour, y = drawing.colour(k), 1.3 * k + 0.6
    axes.text(-2.1, y, f'path of {bits} bits\n(ring of {width})', va='center', color=colour)
    for x in columns:
      box(x, y, f'conv, ring {k + 1}\nPSBN, PACT', colour)
    for start, end in itertools.pairwise(columns):
      arrow((start + 0.9, y), (end - 0.9, y), colour)
    arrow((columns[-1] + 0.9, y), (7.6, y), colour)
    axes.text(7.65, y, f'head: {bits}-bit\nlogits', va='center', fontsize=9)
    # Every lower path feeds every higher one.
    for lower in range(k):
      colour, is_next = drawing.colour(lower), lower == k - 1
      for x in columns:
        if is_next:
          arrow((x, 1.3 * lower + 0.9), (x, y - 0.3), colour)
        else:
          start, end = (x - 0.88, 1.3 * lower + 0.65), (x - 0.88, y - 0.1)
          arrow(start, end, colour, connectionstyle='arc3,rad=-0.25')
  for x in columns:
    box(x, -0.38, 'ring 1 at 8 bits', '#777777', dashed=True)
  axes.text(-2.1, -0.38, 'companion\n(training only)', va='center', color='#777777')
  return figure


def cost() -> Figure:
  """Draws the cost of each precision: computed, in BitOPs, and measured, in milliseconds."""
  figure = Figure((7.6, 3.4))
  left, right = figure.subplots(1, 2, width_ratios=(1, 1.35))
  for axes in (left, right):
    axes.set_axisbelow(True)
  counted = costs.bitops(Onion(CifarResNet(depth=20), _BITS, _ACTIVATION_BITS), (32, 32, 3))
  paths_alone = np.diff([0, *(each.convolutions for each in counted)]) / 1e9
  for column, each in enumerate(counted):
    bottom = 0.0
    for k, height in enumerate(paths_alone[: column + 1]):
      left.bar(column, height, bottom=bottom, color=drawing.colour(k), width=0.6)
      left.text(column, bottom + height / 2, f'path {k + 1}', ha='center', va='center', fontsize=8)
      bottom += height
    left.bar(column, each.laterals / 1e9, bottom=bottom, color=drawing.INK, width=0.6)
  left.set_xticks(range(len(_BITS)), [f'{bits} bits' for bits in _BITS])
  left.set_ylabel('BitOPs an image, G')
  left.set_title('computed: activations of 8 bits', fontsize=10)

  measured = json.loads((_ROOT / 'results/cpu/onnx_runtime.json').read_text())
  times: Mapping[str, float] = measured['of_threads']['2']['64']['ms_per_image']
  low, high = measured['bits']
  bars = {
    'fp32, plain': (times['fp32'], '#999999'),
    'int8, plain': (times['int8'], '#999999'),
    f'{low} bits': (times[f'precision_{low}'], drawing.colour(0)),
    f'{high} bits\n(both paths)': (times[f'precision_{high}'], drawing.colour(1)),
    'cascade': (times['cascade'], drawing.colour(2)),
  }
  for index, (time, colour) in enumerate(bars.values()):
    right.barh(-index, time, color=colour, height=0.6)
    right.text(time, -index, f' {time:.2f}', va='center', fontsize=9)
  right.set_yticks([-index for index in range(len(bars))], list(bars))
  right.set_xlim(0, 1.2 * max(times['fp32'], times[f'precision_{high}']))
  right.set_xlabel('ms an image, ONNX Runtime, 2 CPU cores')
  right.set_title('measured: ResNet-20, batches of 64', fontsize=10)
  return figure


FIGURES: Mapping[str, Callable[[], Figure]] = {'levels': levels, 'paths': paths, 'cost': cost}


def svg(name: str) -> str:
  """Returns a figure as an SVG file."""
  with drawing.style(name):
    file = io.StringIO()
    nothing = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
    FIGURES[name]().savefig(file, format='svg', facecolor='white', metadata=nothing)
  return ''.join(line.rstrip() + '\n' for line in file.getvalue().splitlines())


if __name__ == '__main__':
  FOLDER.mkdir(exist_ok=True)
  for figure in FIGURES:
    (FOLDER / f'{figure}.svg').write_text(svg(figure))
