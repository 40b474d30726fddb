"""Reads the `summary.json` of a run, of this version or an earlier one."""

import json
import pathlib
from typing import Annotated, Any

import pydantic
from pydantic import Field

from dpoq_jax.runtime import files

_Share = Annotated[float, Field(ge=0, le=1)]
_Bits = Annotated[str, Field(pattern='^([1-9]|[12][0-9]|3[0-2])$')]


class _Checked(pydantic.BaseModel):
  """Refuses other types; what later versions say besides is left to them."""

  model_config = pydantic.ConfigDict(extra='allow', strict=True, allow_inf_nan=False)


class _Precision(_Checked):
  """Describes what is said of a precision; tables are made of its top-1."""

  top1: _Share
  top1_best: _Share = 0.0
  ensemble_top1: _Share = 0.0
  bitops: Annotated[int, Field(ge=1)] = 1
  lateral_bitops: Annotated[int, Field(ge=0)] = 0
  relative_bitops: Annotated[float, Field(gt=0)] = 1.0
  bytes: Annotated[int, Field(ge=0, lt=2**63)] = 0


class _Truncated(_Checked):
  """Describes what is said of a network whose weights were truncated."""

  top1: _Share
  top1_reestimated: _Share


class _Summary(_Checked):
  """Describes what is said of a run."""

  dataset: str = ''
  model: str = ''
  bits: list[int] = []
  steps: Annotated[int, Field(ge=0, lt=2**63)] = 0
  examples_per_second: Annotated[float, Field(gt=0)] = 1.0
  precisions: Annotated[dict[_Bits, _Precision], Field(min_length=1)]
  truncated: dict[_Bits, _Truncated] = {}


def read(path: pathlib.Path) -> dict[str, Any]:
  """Reads a summary.

  Raises:
    FileNotFoundError: if there is none.
    ValueError: if it is none that a run wrote, or no regular file, in one line that names it.
  """
  text = files.read_regular(path)
  try:
    _Summary.model_validate_json(text)
  except pydantic.ValidationError as error:
    first = error.errors()[0]
    place = '.'.join(map(str, first['loc'])) or 'file'
    raise ValueError(f'{path} is no summary of a run ({place}: {first["msg"]}).') from None
  return json.loads(text)
