"""Reads manifests and the files that they list, and refuses what is damaged or makes no sense.

Needs the standard library alone: an ONNX export has a copy of this file beside its `predict.py`.
Every error is one sentence that names the file. A digest tells damage, not malice: a graph is a
program, and is trusted as one.
"""

from collections.abc import Mapping
import hashlib
import json
import pathlib
import re
import reprlib
import stat
import sys
from typing import Any

MANIFEST = 'manifest.json'
FORMAT = 2
LARGEST = 2**24
"""Most bytes that a manifest has."""

_LARGEST_SIDE = 2**14
_MOST_BITS = 32


def digest(content: Mapping[str, Any]) -> str:
  """Returns the SHA-256 digest of a manifest's content, whatever the layout of its text."""
  canonical = json.dumps(content, sort_keys=True, separators=(',', ':'))
  return hashlib.sha256(canonical.encode()).hexdigest()


def read_content(path: pathlib.Path, what: str, marker: str, version: int) -> dict[str, Any]:
  """Reads a manifest that has its own digest; its fields are still to be checked.

  Args:
    path: the file.
    what: what it is the manifest of.
    marker: a field that only manifests of this kind have; all kinds have the same file name.
    version: its format.

  Returns:
    The content without the digest.

  Raises:
    OSError: if the file cannot be read.
    ValueError: if it is not such a manifest, of another format, or altered.
  """
  _check_regular(path)
  if path.stat().st_size > LARGEST:
    raise ValueError(f'{path} is larger than any manifest.')
  try:
    content = json.loads(path.read_bytes().decode('utf-8'))
  # Too many digits, too deep, no text: all are reported alike.
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{path} is not JSON ({error}).') from None
  if not isinstance(content, dict) or type(content.get('format')) is not int:
    raise ValueError(f'{path} is not the manifest of {what}.')
  if marker not in content:
    raise ValueError(f'{path} is not the manifest of {what}: it has no {marker}.')
  if content['format'] != version:
    remedy = 'upgrade it' if content['format'] > version else 'export anew'
    raise ValueError(
      f'{path} is of format {reprlib.repr(content["format"])}; this version reads {version}: '
      f'{remedy}.'
    )
  try:
    is_whole = content.pop('sha256', None) == digest(content)
  except RecursionError:
    # JSON nested so deep that it can be read, but not written.
    is_whole = False
  if not is_whole:
    raise ValueError(f'{path} was altered: it does not have its own digest.')
  return content


def read(folder: pathlib.Path, what: str, marker: str) -> dict[str, Any]:
  """Reads the manifest of a folder of graphs, and checks its fields.

  Raises:
    OSError, ValueError: as `read_content` does, or if a field makes no sense.
  """
  path = folder / MANIFEST
  if not folder.is_dir():
    raise FileNotFoundError(f'{folder}: there is no such folder.')
  content = read_content(path, what, marker, FORMAT)
  try:
    check(content)
  except ValueError as error:
    raise ValueError(f'{path}: {error}.') from None
  return content


def read_file(folder: pathlib.Path, graph: Mapping[str, Any]) -> bytes:
  """Reads the file of a graph.

  Args:
    folder: the folder of the manifest.
    graph: its entry in the manifest.

  Raises:
    OSError: if it cannot be read.
    ValueError: if it is not the file that was written.
  """
  path = folder / graph['file']
  _check_regular(path)
  if path.stat().st_size != graph['bytes']:
    raise ValueError(f'{path} was altered: it does not have {graph["bytes"]} bytes.')
  content = path.read_bytes()
  if hashlib.sha256(content).hexdigest() != graph['sha256']:
    raise ValueError(f'{path} was altered: its digest is not that of the manifest.')
  return content


def check(content: Mapping[str, Any]) -> None:
  """Refuses a manifest of graphs whose fields make no sense; others than these are not looked at.

  Raises:
    ValueError: with the first bad field, what it holds and what is allowed.
  """
  bits = _list(content, 'bits', int)
  if not bits or bits != sorted(set(bits)) or bits[0] < 1 or bits[-1] > _MOST_BITS:
    raise _refused('bits', bits, f'ascending numbers from 1 to {_MOST_BITS}')
  if not _list(content, 'class_names', str):
    raise _refused('class_names', [], 'a name for each class')
  shape = _list(content, 'image_shape', int)
  if len(shape) != 3 or not all(1 <= side <= _LARGEST_SIDE for side in shape):
    raise _refused('image_shape', shape, f'three numbers from 1 to {_LARGEST_SIDE}')
  resize = content.get('resize')
  if resize is not None and (
    type(resize) is not int or not max(shape[:2]) <= resize <= _LARGEST_SIDE
  ):
    raise _refused('resize', resize, f'a number from {max(shape[:2])} to {_LARGEST_SIDE}, or none')
  for kind, stem in (('paths', 'path'), ('precisions', 'precision')):
    graphs = _list(content, kind, dict)
    if [graph.get('precision') for graph in graphs] != bits:
      raise ValueError(f'{kind} are not those of bits={bits}')
    for precision, graph in zip(bits, graphs, strict=True):
      where = f'{kind} of {precision} bits: '
      _check_graph(graph, rf'{stem}_{precision}\.(onnx|stablehlo)', where)
  if 'cascade' in content:
    if not isinstance(content['cascade'], dict):
      raise _refused('cascade', content['cascade'], 'a graph')
    _check_graph(content['cascade'], r'cascade\.onnx', 'cascade: ')
  for point in _list(content, 'operating_points', dict):
    check_point(point, bits)


def check_point(point: Mapping[str, Any], bits: list[int]) -> None:
  """Refuses an operating point that lacks a number for some precision, or has one out of bounds.

  Raises:
    ValueError: with the first bad field, what it holds and what is allowed.
  """
  if point.get('bits') != bits:
    raise ValueError(f'an operating point is for bits={reprlib.repr(point.get("bits"))}')
  for count, precision in enumerate(bits, start=1):

    def given(field: str, precision: int = precision) -> Any:
      by_precision = point.get(field)
      if not isinstance(by_precision, Mapping) or str(precision) not in by_precision:
        raise ValueError(f'an operating point has no {field} for {precision} bits')
      return by_precision[str(precision)]

    if not _is_number(threshold := given('thresholds')):
      raise _refused(f'thresholds of {precision} bits', threshold, 'a finite number from 0 up')
    if not (_is_number(temperature := given('temperatures')) and temperature > 0):
      raise _refused(f'temperatures of {precision} bits', temperature, 'a finite number above 0')
    weights = given('weights')
    are_numbers = isinstance(weights, list) and all(map(_is_number, weights))
    if not are_numbers or len(weights) != count or not 0 < sum(weights) <= sys.float_info.max:
      raise _refused(
        f'weights of {precision} bits', weights, f'{count} finite numbers from 0 up, not all 0'
      )


def _check_regular(path: pathlib.Path) -> None:
  """Refuses what is no file: a pipe or a device has no size, and may have no end."""
  if not stat.S_ISREG(path.stat().st_mode):
    raise ValueError(f'{path} is no regular file.')


def _list(content: Mapping[str, Any], field: str, kind: type) -> list[Any]:
  """Returns a field that is a list of one type; JSON's true is no number."""
  found = content.get(field)
  if not isinstance(found, list) or any(type(each) is not kind for each in found):
    raise _refused(field, found, f'a list of {kind.__name__}')
  return found


def _check_graph(graph: Mapping[str, Any], pattern: str, where: str) -> None:
  """Refuses the entry of a graph whose file is not named so, or that lacks its size or digest."""
  # No other folder can be named.
  _check_text(graph, 'file', pattern, where)
  _check_text(graph, 'sha256', '[0-9a-f]{64}', where)
  if type(graph.get('bytes')) is not int:
    raise _refused(where + 'bytes', graph.get('bytes'), 'a number')


def _check_text(graph: Mapping[str, Any], field: str, pattern: str, where: str) -> None:
  """Refuses a field that is not text of a pattern."""
  found = graph.get(field)
  if not isinstance(found, str) or not re.fullmatch(pattern, found):
    raise _refused(where + field, found, f'text like {pattern}')


def _is_number(value: Any) -> bool:
  """Tells whether a value is a finite number from 0 up that a float can hold."""
  return type(value) in (int, float) and 0 <= value <= sys.float_info.max


def _refused(field: str, found: Any, allowed: str) -> ValueError:
  """Returns the error for a field; what it holds is shortened."""
  return ValueError(f'{field} is {reprlib.repr(found)}: {allowed} is allowed')
