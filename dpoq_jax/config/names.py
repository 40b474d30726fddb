"""Says which of several names one was meant, when it is none of them."""

from collections.abc import Iterable
import difflib


def nearest(name: str, known: Iterable[str]) -> str | None:
  """Returns the known name most like a wrong one; None if none is like it.

  >>> nearest('trian', ['train', 'report'])
  'train'
  """
  found = difflib.get_close_matches(name, list(known), n=1)
  return found[0] if found else None


def hint(name: str, known: Iterable[str], *, listed: bool = False) -> str:
  """Returns the end of an error message: the known name most like a wrong one, or all of them.

  Args:
    name: the wrong name.
    known: the right ones.
    listed: whether all of them are listed in either case.

  >>> hint('trian', ['train', 'report'])
  'did you mean train?'
  >>> hint('x', ['train', 'report'])
  'there are train, report.'
  >>> hint('trian', ['train', 'report'], listed=True)
  'there are train, report; did you mean train?'
  """
  known = list(known)
  found, all_names = nearest(name, known), f'there are {", ".join(known)}'
  if found is None:
    return f'{all_names}.'
  return f'{all_names}; did you mean {found}?' if listed else f'did you mean {found}?'
