"""Takes trees of parameters apart, and puts them together.

Paths that run the same kernels at different widths, as in AdaBits, share kernels and classifier and
keep apart what depends on the width, which is called switchable: normalisations and clips.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

from flax import traverse_util


def flatten(tree: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
  """Returns the leaves of nested mappings by their path."""
  return cast('dict[tuple[str, ...], Any]', traverse_util.flatten_dict(tree))


def is_switchable(path: tuple[str, ...]) -> bool:
  """Tells whether each width has its own: a clip, or a parameter of a normalisation."""
  return path[-1] == 'clip' or path[-2:-1] == ('norm',)


def split(tree: Any, belongs: Callable[[tuple[str, ...]], bool]) -> tuple[Any, Any]:
  """Parts a tree into the leaves whose path belongs, and the others."""
  first, second = {}, {}
  for path, leaf in flatten(tree).items():
    (first if belongs(path) else second)[path] = leaf
  return traverse_util.unflatten_dict(first), traverse_util.unflatten_dict(second)


def merge(one: Any, other: Any) -> Any:
  """Returns a tree of the leaves of both; those of `other` replace those of `one`."""
  return traverse_util.unflatten_dict(flatten(one) | flatten(other))
