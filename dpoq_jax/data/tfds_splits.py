"""Finds splits, and parts of splits, of a TFDS data set.

A part is written as TFDS writes it: `train[:90%]`, `train[1000:]`, `train+validation`.
"""

from typing import Any


def reported(name: str, splits: Any) -> str:
  """Returns the split that accuracies are reported on, unless the config says.

  Args:
    name: name of the data set, for messages.
    splits: splits of its TFDS info.

  Raises:
    ValueError: if the data set has neither a validation split nor a test split.
  """
  # The labels of a test split may be secret, as ImageNet's are.
  for split in ('validation', 'test'):
    if split in splits:
      return split
  raise ValueError(
    f'data set {name} has no split to report on, only {", ".join(splits)}: give parts of one, '
    "for example config.data.train_split='train[:90%]' and config.data.test_split='train[90%:]'."
  )


def size(name: str, splits: Any, split: str) -> int:
  """Returns the number of examples of a split, or of a part of one.

  Raises:
    ValueError: if there is no such split or part, or no example in it.
  """
  examples = sum(each.take for each in _pieces(name, splits, split))
  if not examples:
    raise ValueError(f'data set {name}: there are no examples in {split}.')
  return examples


def check_apart(name: str, splits: Any, trained: str, reported_on: str) -> None:
  """Checks that no example is both trained and reported on.

  Raises:
    ValueError: if one is, or if there is no such split or part.
  """
  for one in _pieces(name, splits, trained):
    for other in _pieces(name, splits, reported_on):
      first, end = max(one.skip, other.skip), min(one.skip + one.take, other.skip + other.take)
      if one.filename == other.filename and first < end:
        raise ValueError(
          f'config.data.train_split={trained} and config.data.test_split={reported_on} of data set '
          f'{name} share examples: give parts that do not, as train[:90%] and train[90%:].'
        )


def _pieces(name: str, splits: Any, split: str) -> list[Any]:
  """Returns the pieces of files that a split consists of, as TFDS reads them."""
  try:
    return list(splits[split].file_instructions)
  # TFDS parses the text, and raises what its parser happens to.
  except (AssertionError, KeyError, TypeError, ValueError):
    raise ValueError(
      f'data set {name} has no split {split!r}: it has {", ".join(splits)}, and parts of them, '
      'written train[:90%].'
    ) from None
