"""Writes the reference of all config fields from the schema.

    python docs/scripts/configuration.py

Types and bounds come from the JSON schema that pydantic derives, defaults from the default config,
what a field means from the docstrings. A test keeps the page equal to this.
"""

from collections.abc import Mapping
import inspect
import pathlib
from typing import Any

from griffe import Docstring, DocstringSectionAttributes

from dpoq_jax import config as config_lib
from dpoq_jax.config.bounds import Section

PAGE = pathlib.Path(__file__).parents[1] / 'configuration.md'
# Beyond it a bound only keeps numbers finite.
_NO_LIMIT = 1e38

_HEAD = """\
# Configuration

Every field of a run, with what it may be and its default. This page is written from the schema
(`dpoq_jax/config/sections.py` and `dpoq_jax/config/schema.py`) by
`python docs/scripts/configuration.py`; a test keeps both equal.

A config is a name or a Python file, perhaps with a [variant](commands.md#variants), and any field
is a flag:

```sh
dpoq train --config=cifar10_resnet20:bits=2-4-8 --config.epochs=30 --workdir=runs/mine
```

Tuples are written with commas: `--config.quantization.bits=2,4,8`. A field that does not exist is
answered with the nearest one that does; a combination that makes no sense, with the field to
change; a field that was changed but has no effect, with a warning that says what it needs. The
whole config of a run is kept in `config.json` in its workdir, and resuming with another one is
refused but for the fields marked *may change on resume*.

Bit lists are one or more increasing integers from 1 to 32, such as `(2, 4, 8, 16)`: a ring (the
difference of two neighbours) has 1 to 16 bits, and `(32,)` is the float network. Activations have
1 to 16 bits, or 32 for float.
"""


def text() -> str:
  """Returns the page."""
  config = config_lib.Config()
  sections = {name: value for name, value in config if isinstance(value, Section)}
  parts = [_HEAD, _section('Run', config, '', apart=sections.keys())]
  parts += [_section(name, section, f'{name}.') for name, section in sections.items()]
  return '\n'.join(parts)


def _section(title: str, section: Section, prefix: str, apart: Any = ()) -> str:
  """Returns the table of a section."""
  schema, meanings = type(section).model_json_schema(), _meanings(type(section))
  lines = [
    f'## {title}',
    '',
    f'{(inspect.getdoc(type(section)) or "").partition(chr(10))[0]}',
    '',
    '| field | may be | default | what it is |',
    '| --- | --- | --- | --- |',
  ]
  for name, value in section:
    if name not in apart:
      lines.append(
        f'| `{prefix}{name}` | {_allowed(schema["properties"][name])} | `{value!r}` '
        f'| {meanings[name]} |'
      )
  return '\n'.join(lines) + '\n'


def _meanings(section: type[Section]) -> dict[str, str]:
  """Returns what the docstring of a section says of each field, on one line."""
  parsed = Docstring(inspect.getdoc(section) or '').parse('google', warnings=False)
  return {
    attribute.name: ' '.join(attribute.description.split()).replace('|', '\\|')
    for found in parsed
    if isinstance(found, DocstringSectionAttributes)
    for attribute in found.value
  }


def _allowed(schema: Mapping[str, Any]) -> str:
  """Returns the type and bounds that a JSON schema allows, in words."""
  if 'anyOf' in schema:
    return ' or '.join(_allowed(kind) for kind in schema['anyOf'])
  if 'enum' in schema:
    return ', '.join(f'`{value}`' for value in schema['enum'])
  match schema['type']:
    case 'array':
      return f'tuple of: {_allowed(schema["items"])}'
    case 'integer' | 'number' as kind:
      return ' '.join(['whole number' if kind == 'integer' else 'number', *_bounds(schema)])
    case 'null':
      return '`None`'
    case 'boolean':
      return '`True`, `False`'
    case _:
      return 'text'


def _bounds(schema: Mapping[str, Any]) -> list[str]:
  """Returns the bounds of a number, in words."""
  words = (
    ('minimum', 'from'),
    ('exclusiveMinimum', 'above'),
    ('maximum', 'to'),
    ('exclusiveMaximum', 'below'),
  )
  return [
    f'{word} {schema[key]:,}'
    for key, word in words
    if key in schema and abs(schema[key]) < _NO_LIMIT
  ]


if __name__ == '__main__':
  PAGE.write_text(text())
