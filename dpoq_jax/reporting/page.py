"""Writes the report of a run: one HTML page that needs no other file, its plots beside it as PNG.

A reader can move along the rerun curves and download the operating point that is shown. Everything
the page can show is computed here; its script only looks it up.
"""

import base64
from collections.abc import Mapping, Sequence
import io
import pathlib
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from dpoq_jax.inference import calibration as calibration_lib
from dpoq_jax.inference import curve, exits
from dpoq_jax.inference.calibration import EqualBits
from dpoq_jax.inference.examples import Examples, alone
from dpoq_jax.inference.operating_point import OperatingPoint, Outcome, Target
from dpoq_jax.reporting import choices, plots
from dpoq_jax.reporting.choices import Choices
from dpoq_jax.runtime.files import write_whole

FILE = 'report.html'
POINTS = 150
"""Number of operating points to choose from along the curve of each order."""

# Limits on the average bits at which the three ways to predict are compared.
_EQUAL_BITS = 33
_SHOWN_IMAGES = 12

_COMBINATIONS = {
  'mean': 'the plain mean of the probabilities of all precisions that were run',
  'last': 'the last precision that was run, alone',
  'weighted': 'a weighted mean of the probabilities of all precisions that were run',
}


def write(
  folder: pathlib.Path,
  *,
  title: str,
  rows: Sequence[Mapping[str, Any]],
  calibration: Examples,
  reported: Examples,
  images: Any,
  class_names: Sequence[str],
  point: OperatingPoint,
  whole: Examples | None = None,
) -> pathlib.Path:
  """Writes `report.html` and its plots; the same input gives the same files.

  Args:
    folder: folder for them, made if it does not exist.
    title: title of the page.
    rows: rows of `metrics.jsonl`.
    calibration: examples that `point` was chosen on.
    reported: examples that had no part in the choice.
    images: uint8 [examples, height, width, channels], images of `reported` in the same order, or
      an object that gives one of them at a time by its index.
    class_names: one for each class.
    point: the current operating point; its outcomes are measured anew.
    whole: all test examples, if `reported` is a part of them: the accuracies of single precisions
      on them are shown beside those on the part.

  Returns:
    The path of the page.

  Raises:
    ValueError: for logits, labels, images or names that do not fit one another.
  """
  for examples in (calibration, reported):
    exits.check_logits(examples.logits, examples.labels, point.bits)
  _check_images(images, reported)
  if len(class_names) != reported.logits.shape[-1]:
    raise ValueError(
      f'{len(class_names)} class names: logits have {reported.logits.shape[-1]} classes.'
    )
  evaluated = choices.evaluated_exits(point, calibration, reported)
  point = choices.with_outcomes(point, evaluated)
  offered = [
    choices.choices_of_order(point, order, calibration, evaluated, POINTS) for order in curve.ORDERS
  ]
  rerun = next(each.rerun for each in offered if each.rerun.order == point.order)
  equal = list(calibration_lib.equal_bits(point, calibration, reported, _targets(point.bits)))
  curves, places = plots.rerun_curves(offered, point)
  drawn = {
    'training': plots.training(rows),
    'accuracy_vs_bits': plots.accuracy_vs_bits(equal, point),
    'rerun_curves': curves,
    'exits': plots.exits(point),
  }
  first, last = (
    {'bits': bits, 'cards': _cards(indices, images, reported, point, class_names)}
    for bits, indices in _first_and_last(point, evaluated.reported.confidence)
  )
  page = _template().render(
    title=title,
    point=point,
    target=_target(point.target),
    combination=_COMBINATIONS[point.combine],
    highest=_percent(float(alone(reported)[-1].mean())),
    whole=whole,
    whole_static=[] if whole is None else [_percent(each) for each in alone(whole).mean(axis=1)],
    hoped=point.promise and choices.hoped_for(point, rerun, calibration, evaluated),
    points=_points,
    calibration=calibration,
    reported=reported,
    svg={name: plot.svg for name, plot in drawn.items()},
    trained=_listed(_trained(rows)),
    shares=_listed(_outcomes(point)[1].exits),
    equal_bits=_equal_bits_table(equal),
    orders=curve.ORDERS,
    start=_entry(point),
    data=_data(offered, places),
    first=first,
    last=last,
    percent=_percent,
    threshold=_threshold,
  )
  folder.mkdir(parents=True, exist_ok=True)
  for name, plot in drawn.items():
    write_whole(folder / f'{name}.png', plot.png)
  # Written last, so that a page never lacks its plots.
  write_whole(folder / FILE, page)
  return folder / FILE


def _check_images(images: Any, reported: Examples) -> None:
  """Raises ValueError unless there is an image of the right type for every reported example."""
  if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
    raise ValueError(
      f'images are {images.dtype}{list(images.shape)}: they are uint8 [examples, height, width, '
      'channels], with 1 or 3 channels.'
    )
  if len(images) != len(reported):
    raise ValueError(f'{len(images)} images: there are {len(reported)} reported examples.')


def _template() -> jinja2.Template:
  return jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  ).get_template('page.html.jinja')


def _targets(bits: tuple[int, ...]) -> list[float]:
  """Returns the average bits to compare at: all precisions, and evenly in log2 between them."""
  between = np.geomspace(bits[0], bits[-1], _EQUAL_BITS)[1:-1]
  return sorted({*map(float, bits), *(between.tolist() if len(bits) > 1 else ())})


def _data(offered: Sequence[Choices], places: Sequence[Sequence[Any]]) -> dict[str, Any]:
  """Returns what the script of the page looks up, by order."""
  return {
    of_order.rerun.order: {
      'current': of_order.current,
      'points': [
        {**_entry(point), 'file': point.to_json(), 'at': at}
        for point, at in zip(of_order.points, place, strict=True)
      ],
    }
    for of_order, place in zip(offered, places, strict=True)
  }


def _entry(point: OperatingPoint) -> dict[str, Any]:
  """Returns the figures that the page shows of an operating point, as text."""
  expected, reported = _outcomes(point)
  return {
    'shown': {
      'cost': f'{expected.relative_cost:.3f}',
      'bits': f'{expected.average_bits:.3f}',
      'accuracy': _percent(expected.accuracy),
      'reported-cost': f'{reported.relative_cost:.3f}',
      'reported-bits': f'{reported.average_bits:.3f}',
      'reported-accuracy': _percent(reported.accuracy),
    },
    'precisions': [
      [
        _threshold(point, bits),
        _percent(expected.exits[bits]),
        _percent(reported.exits[bits]),
      ]
      for bits in point.bits
    ],
  }


def _first_and_last(point: OperatingPoint, confidence: np.ndarray) -> list[tuple[int, np.ndarray]]:
  """Returns the most confident inputs that leave first, and the least confident that leave last.

  Args:
    point: the operating point.
    confidence: [precisions, examples].

  Returns:
    For each of the two groups, the bits of the precision it leaves at and the indices of its
    inputs.
  """
  left = point.left_at(confidence)
  groups: list[tuple[int, np.ndarray]] = []
  for k, sign in ((left.min(), -1), (left.max(), 1)):
    there = np.flatnonzero(left == k)
    by_confidence = there[np.argsort(sign * confidence[k, there], kind='stable')]
    groups.append((point.bits[k], by_confidence[:_SHOWN_IMAGES]))
  return groups


def _cards(
  indices: np.ndarray,
  images: Any,
  examples: Examples,
  point: OperatingPoint,
  class_names: Sequence[str],
) -> list[dict[str, Any]]:
  """Returns what the page shows of the examples of these indices, image included."""
  predictions = point.predict(examples.logits[:, indices])
  cards: list[dict[str, Any]] = []
  labels = examples.labels[indices]
  for index, label, predicted, k in zip(
    indices, labels, predictions.labels, predictions.exits, strict=True
  ):
    confidence = point.probabilities(k, examples.logits[k, index]).max()
    cards.append(
      {
        'source': _png(images[index]),
        'label': class_names[int(label)],
        'predicted': class_names[int(predicted)],
        'right': bool(label == predicted),
        'confidence': _percent(confidence),
      }
    )
  return cards


def _png(image: np.ndarray) -> str:
  """Returns an image [height, width, channels] as the data URI of a PNG file."""
  file = io.BytesIO()
  Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, 'png')
  return 'data:image/png;base64,' + base64.b64encode(file.getvalue()).decode()


def _trained(rows: Sequence[Mapping[str, Any]]) -> Mapping[Any, float]:
  """Returns the test top-1 of each precision at the last evaluation, or nothing without one."""
  evaluated = [row['top1'] for row in rows if row.get('kind') == 'eval' and 'top1' in row]
  return evaluated[-1] if evaluated else {}


def _listed(by_precision: Mapping[Any, float]) -> str:
  """Returns a share per precision as text."""
  return ', '.join(f'{_percent(share)} at {bits} bits' for bits, share in by_precision.items())


def _equal_bits_table(equal: Sequence[EqualBits]) -> list[list[str]]:
  """Returns the cells of the table of accuracy against bits, a line for every precision."""
  return [
    [
      f'{each.bits:g}',
      _percent(each.static),
      _percent(each.ensemble),
      _percent(each.dynamic),
      f'{each.dynamic_bits:.2f}',
    ]
    for each in equal
    if each.static is not None and each.ensemble is not None
  ]


def _target(target: Target | None) -> str:
  """Returns what an operating point was chosen for, as text."""
  if target is None:
    return 'a target that is not recorded'
  return {
    'average_bits': f'the highest accuracy with at most {target.value:g} bits on average',
    'relative_cost': f'the highest accuracy at a relative cost of at most {target.value:g}',
    'max_accuracy_drop': f'the lowest cost with an accuracy at most {100 * target.value:g} points '
    'below that of the highest precision alone',
    'key': f'a key of {target.value:g}, given by hand',
  }[target.kind]


def _threshold(point: OperatingPoint, bits: int) -> str:
  """Returns the confidence at which inputs leave at a precision, as text."""
  value = point.thresholds[bits]
  if bits == point.bits[-1] or value == 0:
    return 'all leave'
  return f'{value:.6g}' if value <= 1 else 'none leaves'


def _percent(share: float) -> str:
  return f'{100 * share:.2f} %'


def _points(share: float) -> str:
  return f'{100 * share:.2f} points'


def _outcomes(point: OperatingPoint) -> tuple[Outcome, Outcome]:
  """Returns the expected and the reported outcome of a point that has both."""
  assert point.expected is not None
  assert point.reported is not None
  return point.expected, point.reported
