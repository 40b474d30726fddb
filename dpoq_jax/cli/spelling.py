"""Spells flags as people write them, with dashes, and explains in a line those that are wrong."""

from collections.abc import Sequence
import re

from absl import flags as absl_flags

from dpoq_jax import config as config_lib
from dpoq_jax.config import names

# What absl, and Python under it, say of a value, and what is said in place of it.
_REASONS = (
  (r'invalid literal for int\(\).*', 'give a whole number.'),
  (r'could not convert string to float.*', 'give a number.'),
  (r'.*Non-boolean argument to boolean flag.*', 'give true or false.'),
)


def shown(name: str) -> str:
  """Returns a flag as it is written: with dashes, but for the fields of a config.

  >>> shown('data_dir'), shown('config.data.batch_size')
  ('--data-dir', '--config.data.batch_size')
  """
  return f'--{name if name.startswith("config.") else name.replace("_", "-")}'


def with_underscores(words: Sequence[str]) -> list[str]:
  """Writes the names of flags with underscores: both ways of writing them are read.

  >>> with_underscores(['--top=a-b', 'c-d', '--', '--e-f'])
  ['--top=a-b', 'c-d', '--', '--e-f']
  """
  end = words.index('--') if '--' in words else len(words)
  return [_with_underscores(word) for word in words[:end]] + list(words[end:])


def explained(error: absl_flags.Error, flags: absl_flags.FlagValues) -> str:
  """Returns in a line what is wrong with the flags: what was given, and what is allowed.

  Args:
    error: what absl raised.
    flags: all flags of the command.
  """
  if isinstance(error, absl_flags.UnrecognizedFlagError):
    return _unknown(error.flagname, flags)
  text = str(error)
  if missing := re.fullmatch(r'Missing value for flag --(\S+)', text):
    return f'{shown(missing[1])}: give it a value, {shown(missing[1])}=VALUE.'
  found = re.fullmatch(r'flag --([\w.]+)=(.*?): (.*)', text, re.DOTALL)
  if not found:
    return text
  name, given, reason = found.groups()
  if choices := re.fullmatch('value should be one of <(.*)>', reason):
    reason = names.hint(given, choices[1].split('|'))
  for pattern, instead in _REASONS:
    reason = re.sub(f'^{pattern}$', instead, reason, flags=re.DOTALL)
  return f'{shown(name)}={given}: {reason}'


def _unknown(name: str, flags: absl_flags.FlagValues) -> str:
  """Returns the error of a flag that does not exist, with the one it may have been meant for."""
  known = {shown(each): shown(each) for each in flags}
  if 'config' in flags:
    # A field is named by its last part, too: --epochs, --batch-size.
    fields = sorted(config_lib.field_names(), key=lambda field: -field.count('.'))
    known = {shown(each.rpartition('.')[2]): shown(f'config.{each}') for each in fields} | known
  nearest = names.nearest(shown(name), known)
  hint = f'did you mean {known[nearest]}?' if nearest else f'there are {_listed(flags)}.'
  return f'{shown(name)}: there is no such flag; {hint}'


def _listed(flags: absl_flags.FlagValues) -> str:
  """Returns the flags of a command; of those of a config the one that they begin with."""
  return ', '.join(shown(name) for name in sorted(flags) if not name.startswith('config.'))


def _with_underscores(word: str) -> str:
  """Writes the name of a flag with underscores."""
  name, equals, value = word.partition('=')
  dashes = re.match('--?(?=[a-zA-Z])', name)
  if not dashes:
    return word
  return f'{dashes[0]}{name[dashes.end() :].replace("-", "_")}{equals}{value}'
