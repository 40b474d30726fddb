"""Lists every field of a config: what it is, what it may be, its default, all from the schema."""

import inspect
import re
from typing import Any, NamedTuple

from dpoq_jax.config.bounds import GREATEST, Section
from dpoq_jax.config.schema import SECTIONS, Config


class Field(NamedTuple):
  """Describes a field.

  Attributes:
    name: dotted name, `data.batch_size`.
    what: what it is, in words.
    allowed: types and bounds, in words.
    default: its default, as a flag gives it.
  """

  name: str
  what: str
  allowed: str
  default: str


def fields() -> dict[str, list[Field]]:
  """Returns all fields by what their section is, those of the run itself first."""
  # The defaults of a run: those of a section alone are others.
  default = Config()
  found = {_first_line(Config): _of_section(default, '')}
  for name, section in SECTIONS.items():
    found[_first_line(section)] = _of_section(getattr(default, name), f'{name}.')
  return found


def _of_section(default: Section, prefix: str) -> list[Field]:
  """Returns the fields of a section by its defaults, other sections left out."""
  schema = default.model_json_schema()
  described = _described(type(default))
  return [
    Field(
      prefix + name,
      described[name],
      _allowed(schema['properties'][name]),
      _as_flag(getattr(default, name)),
    )
    for name in described
    if prefix or name not in SECTIONS
  ]


def _first_line(section: type[Section]) -> str:
  """Returns what a section is, from its docstring."""
  return (inspect.getdoc(section) or '').partition('\n')[0]


def _described(section: type[Section]) -> dict[str, str]:
  """Returns what each field is, from the attributes in the docstring of a section."""
  _, _, attributes = (inspect.getdoc(section) or '').partition('Attributes:\n')
  entries = re.findall(r'^  (\w+): (.*(?:\n    .*)*)', attributes, re.MULTILINE)
  return {name: ' '.join(text.split()) for name, text in entries}


def _allowed(schema: dict[str, Any]) -> str:
  """Returns the JSON schema of a field in words."""
  if 'anyOf' in schema:
    return ' or '.join(_allowed(each) for each in schema['anyOf'])
  if 'enum' in schema:
    return ', '.join(schema['enum'])
  match schema['type']:
    case 'null':
      return 'None'
    case 'boolean':
      return 'true or false'
    case 'string':
      return 'text'
    case 'array':
      return f'list of: {_allowed(schema["items"])}'
    case kind:
      noun = 'whole number' if kind == 'integer' else 'number'
      return ' '.join([noun, *_bounds(schema)])


def _bounds(schema: dict[str, Any]) -> list[str]:
  """Returns the bounds of a number in words; that of float32 goes without saying."""
  words = {
    'minimum': 'from', 'exclusiveMinimum': 'above',
    'maximum': 'to', 'exclusiveMaximum': 'and below',
  }  # fmt: skip
  return [
    f'{word} {schema[key]:{",d" if isinstance(schema[key], int) else "g"}}'
    for key, word in words.items()
    if key in schema and abs(schema[key]) < GREATEST
  ]


def _as_flag(default: Any) -> str:
  """Returns a default as a flag gives it: lists with commas."""
  if isinstance(default, tuple):
    return ','.join(map(str, default)) or '()'
  return str(default).lower() if isinstance(default, bool) else str(default)
