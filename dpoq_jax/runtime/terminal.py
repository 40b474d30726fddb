"""Makes text of unknown origin fit for a terminal: one line, printable, of bearable length."""

_LONGEST = 1000
_HEAD, _TAIL = 600, 300


def one_line(text: object) -> str:
  r"""Returns text as one line: spaces joined, control characters escaped, its middle left out.

  Names of files and texts in files may hold anything: what moves a terminal's cursor, hides what
  was written before or reverses it is shown as in a Python literal (`\x1b`, `\u202e`).
  """
  words = ' '.join(str(text).split())
  if len(words) > _LONGEST:
    left_out = len(words) - _HEAD - _TAIL
    words = f'{words[:_HEAD]} ({left_out:,} characters left out) {words[-_TAIL:]}'
  return ''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in words)
