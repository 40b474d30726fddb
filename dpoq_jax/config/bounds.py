"""Defines the types of config fields: what each may be, and why no more."""

import re
from typing import Annotated, Any

import pydantic
from pydantic import AfterValidator, Field

# Every number is bounded, since a file or a flag may hold any: what is beyond would end in an
# overflow or eat the machine's memory long after it was read.
MOST_EPOCHS = 10**6
"""Epochs that a run may have; no data set is small enough to need more."""

GREATEST = 3e38
"""Beyond it float32, which all is computed in, has no finite number."""

Positive = Annotated[float, Field(gt=0, le=GREATEST)]
NonNegative = Annotated[float, Field(ge=0, le=GREATEST)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Epochs = Annotated[float, Field(ge=0, le=MOST_EPOCHS)]
# Steps, examples and what is counted in them are 32-bit integers on devices.
_MOST = 2**31 - 1
Natural = Annotated[int, Field(ge=0, le=_MOST)]
Count = Annotated[int, Field(ge=1, le=_MOST)]
# Of NumPy's and JAX's generators.
Seed = Annotated[int, Field(ge=0, lt=2**32)]
# Of images, in pixels: no camera makes larger ones.
Side = Annotated[int, Field(ge=1, le=2**14)]
MOST_LAYERS = 2000
"""Layers of a network at most; the deepest published ResNet has 1,202."""

Depth = Annotated[int, Field(ge=1, le=MOST_LAYERS)]
# The widest networks have some thousand channels.
Width = Annotated[int, Field(ge=1, le=2**14)]
# Sixteen times the largest batch that ImageNet was ever trained with.
BatchSize = Annotated[int, Field(ge=1, le=2**20)]
# Each is a process; no machine has as many cores.
Workers = Annotated[int, Field(ge=0, le=2**12)]


def _none(value: Any) -> Any:
  """Returns None for the text that a flag says it by, and any other value as it is."""
  return None if value == 'None' else value


def _encodable(text: str | None) -> str | None:
  """Returns text that can be written to the file of a run."""
  if text is not None and not re.fullmatch('[^\x00\ud800-\udfff]*', text):
    raise ValueError('text has to be UTF-8, without null characters')
  return text


Name = Annotated[str, AfterValidator(_encodable)]
Text = Annotated[str | None, pydantic.BeforeValidator(_none), AfterValidator(_encodable)]
"""Text that may be None, also by a flag."""


class Section(pydantic.BaseModel):
  """Refuses unknown fields, other types, and change."""

  model_config = pydantic.ConfigDict(extra='forbid', frozen=True, strict=True)
