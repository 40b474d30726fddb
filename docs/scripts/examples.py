"""Sets the examples in docstrings as code, for the API reference (an extension of Griffe)."""

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r'^>>> .*?(?=\n\n|\Z)', re.DOTALL | re.MULTILINE)


class FencedExamples(griffe.Extension):
  """Puts fences around what begins with `>>>`, which would be read as text, brackets as links."""

  def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
    """Changes the docstring of a module, class, function or attribute that was read."""
    del kwargs
    if obj.docstring:
      obj.docstring.value = _EXAMPLE.sub(r'```python\n\g<0>\n```', obj.docstring.value)
