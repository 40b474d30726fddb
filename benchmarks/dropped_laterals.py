"""Measures what accuracy is left when the smallest laterals of a trained network are dropped.

    python -m benchmarks.dropped_laterals [--pretrained=NAME] [--data-dir=D] [--json=FILE]

A lateral is what a layer of one path reads of one lower path. Its size is the root mean square of
its shifts over that of the layer's own scales. It is dropped whole: only then a graph has less to
add up. Nothing is trained afterwards. Top-1 is that on the test images of its own data set.
"""

import json
import pathlib
from typing import Any

from absl import flags, logging
from flax import traverse_util
import jax
import numpy as np
import rich.table

from benchmarks import command
from dpoq_jax import classifier, pretrained
from dpoq_jax.core.names import SHIFT_PREFIX
from dpoq_jax.data import in_memory
from dpoq_jax.network import trees

_JSON = flags.DEFINE_string('json', None, 'file for the figures')
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'where its data set is')
_PRETRAINED = flags.DEFINE_enum('pretrained', 'cifar10_resnet20', pretrained.names(), 'the network')

_SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
_BATCH = 500


def main(_: list[str]) -> None:
  """Evaluates the network with ever fewer laterals, prints the table and writes the figures."""
  logging.set_verbosity(logging.ERROR)
  opened = classifier.load_pretrained(_PRETRAINED.value)
  point = opened.operating_point
  if point is None or point.data is None:
    raise ValueError(f'--pretrained={_PRETRAINED.value}: it does not say what its data set is.')
  test = in_memory.load(point.data.dataset, 'test', _DATA_DIR.value)
  params = dict(trees.flatten(opened.variables['params']))
  smallest_first = sorted(_laterals(params), key=lambda lateral: _size(params, lateral))
  apply = jax.jit(opened.network.apply)
  figures: list[dict[str, Any]] = []
  for share in _SHARES:
    dropped = smallest_first[: round(share * len(smallest_first))]
    # Zeros are as good as nothing, and leave one program for all.
    kept = params | {lateral: np.zeros_like(params[lateral]) for lateral in dropped}
    variables = {**opened.variables, 'params': traverse_util.unflatten_dict(kept)}
    labels = [
      np.asarray(apply(variables, test.images[start : start + _BATCH])).argmax(axis=-1)
      for start in range(0, len(test), _BATCH)
    ]
    right = np.mean(np.concatenate(labels, axis=1) == test.labels, axis=1)
    figures.append(
      {
        'dropped': len(dropped),
        'of': len(smallest_first),
        'largest_dropped': _size(params, dropped[-1]) if dropped else None,
        'top1': {str(b): float(each) for b, each in zip(opened.bits, right, strict=True)},
      }
    )
  _show(figures)
  if _JSON.value:
    result = {'network': _PRETRAINED.value, 'images': len(test), 'figures': figures}
    pathlib.Path(_JSON.value).write_text(json.dumps(result, indent=1) + '\n')


def _laterals(params: dict[tuple[str, ...], Any]) -> list[tuple[str, ...]]:
  """Returns the shifts of every lateral, by their place in `params`."""
  return [place for place in params if place[-1].startswith(SHIFT_PREFIX)]


def _size(params: dict[tuple[str, ...], Any], lateral: tuple[str, ...]) -> float:
  """Returns the root mean square of a lateral's shifts over that of the layer's own scales."""
  shifts, scales = (np.asarray(params[place]) for place in (lateral, (*lateral[:-1], 'scale')))
  return float(np.sqrt(np.mean(np.square(shifts)) / np.mean(np.square(scales))))


def _show(figures: list[dict[str, Any]]) -> None:
  """Prints a line for each number of laterals that are dropped."""
  table = rich.table.Table(title=f'{_PRETRAINED.value}, the smallest laterals dropped')
  for column in ('dropped', 'largest, of gamma', *(f'{b} bits: %' for b in figures[0]['top1'])):
    table.add_column(column, justify='right')
  for each in figures:
    largest = each['largest_dropped']
    table.add_row(
      f'{each["dropped"]} of {each["of"]}',
      '' if largest is None else f'{largest:.2f}',
      *(f'{100 * top1:.2f}' for top1 in each['top1'].values()),
    )
  command.console().print(table)


if __name__ == '__main__':
  command.start(main)
