"""Says which of several names one was meant, when it is none of them."""

from collections.abc import Iterable
import difflib


def hint(name: str, known: Iterable[str]) -> str:
  """Returns the end of an error message: the known name most like a wrong one, or all of them.

  >>> hint('trian', ['train', 'report'])
  'did you mean train?'
  >>> hint('x', ['train', 'report'])
  'there are train, report.'
  """
  known = list(known)
  near = nearest(name, known)
  return f'did you mean {near}?' if near else f'there are {", ".join(known)}.'


def nearest(name: str, known: Iterable[str]) -> str | None:
  """Returns the known name most like a wrong one; None if none is like it."""
  return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)
