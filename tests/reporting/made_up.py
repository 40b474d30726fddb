"""A made-up network to report on, and what a page must show of it."""

import html.parser
import json
import pathlib
from typing import Any

import numpy as np

from dpoq_jax.inference import calibration
from dpoq_jax.inference.calibration import Examples
from dpoq_jax.inference.operating_point import OperatingPoint, Target

PLOTS = ('training', 'accuracy_vs_bits', 'rerun_curves', 'exits')
HOSTILE = (
  '</script><script>boom()</script>',
  '<img src=x onerror=boom()>',
  '"&\' $x_$ {{ 1 }} \u00e9',
)


def problem(bits: tuple[int, ...], examples: int = 400, classes: int = 3) -> dict[str, Any]:
  """Arguments of `report.write` for a made-up network: higher precisions are better, some ties."""
  random = np.random.default_rng(sum(bits))
  labels = random.integers(0, classes, 2 * examples)
  logits = random.normal(size=(len(bits), 2 * examples, classes)) + random.normal(
    size=(2 * examples, classes)
  )
  logits[:, np.arange(2 * examples), labels] += np.arange(1, len(bits) + 1)[:, None]
  logits = np.round(logits, 2).astype(np.float32)
  first = Examples(logits[:, :examples], labels[:examples], 'the first <half>')
  second = Examples(logits[:, examples:], labels[examples:], 'the second half')
  rows = [
    {'step': step, 'kind': kind, 'epoch': step / 10, 'skipped': 0}
    | {name: {str(b): 1 / (step + b) for b in bits} for name in ('loss', 'top1')}
    for step in (5, 10, 20)
    for kind in ('train', 'eval')
  ]
  settings = calibration.Settings(Target(kind='average_bits', value=bits[0] * 1.5))
  point, *_ = calibration.choose(first, second, bits, settings, dataset='made-up', step=20)
  return {
    'title': 'A run of <i>three</i> precisions & more',
    'rows': rows,
    'calibration': first,
    'reported': second,
    'images': random.integers(0, 256, (examples, 5, 4, 3)).astype(np.uint8),
    'class_names': [HOSTILE[k % 3] for k in range(classes)],
    'point': point,
  }


class Page(html.parser.HTMLParser):
  """Elements of a page, with attributes, and the text of those that hold data."""

  def __init__(self, path: pathlib.Path):
    super().__init__()
    self.elements: list[tuple[str, dict[str, str | None]]] = []
    self.texts: dict[str, list[str]] = {}
    self._open = ''
    self.feed(path.read_text())
    self.close()

  def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
    self.elements.append((tag, dict(attrs)))
    self._open = tag

  def handle_endtag(self, tag: str) -> None:
    self._open = ''

  def handle_data(self, data: str) -> None:
    self.texts.setdefault(self._open, []).append(data)

  def attributes(self, name: str) -> list[str]:
    return [value for _, found in self.elements if (value := found.get(name)) is not None]

  def data(self) -> dict[str, Any]:
    return json.loads(next(text for text in self.texts['script'] if text.startswith('{')))


def outcome_shown(point: OperatingPoint, examples: Examples) -> dict[str, str]:
  left = point.predict(examples.logits)
  bits = np.array(point.bits)[left.exits]
  return {
    'accuracy': f'{100 * np.mean(left.labels == examples.labels):.2f} %',
    'bits': f'{bits.mean():.3f}',
    'cost': f'{(bits / point.bits[0]).mean():.3f}',
  }


def shares_shown(point: OperatingPoint, examples: Examples) -> list[str]:
  left = point.predict(examples.logits)
  return [f'{100 * np.mean(left.exits == k):.2f} %' for k in range(len(point.bits))]
