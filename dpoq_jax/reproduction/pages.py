"""Writes tables as Markdown: those of the paper beside its numbers, and ours."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import statistics

from dpoq_jax.reproduction import average_bits
from dpoq_jax.reproduction.cells import MEAN
from dpoq_jax.reproduction.entries import Entry, Noise, pooled_noise, within_noise

# The system that the others are compared with, and the columns in which it is another network: the
# paper compares the 16-bit onion with a float network.
_REFERENCE = 'individual'
_REFERENCE_COLUMNS = {'16 bits': 'fp32'}
# Rows of networks that were changed afterwards; at 2 bits these differ by many points.
_AFTER_TRAINING = 'truncated'


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Describes the page of a table of ours, beside its numbers.

  Attributes:
    title: title of the page.
    introduction: text above the first table.
    columns: columns, in their order.
    over: rows that are compared with others, each with those.
    missing: what has no results yet, for each network and data, in the order of the page.
  """

  title: str
  introduction: str
  columns: Sequence[str]
  over: Mapping[str, Sequence[str]]
  missing: Mapping[str, Sequence[str]]

  @property
  def reference(self) -> str | None:
    """Returns the row that most are compared with; None if rows have several, or all have none."""
    references = [other for others in self.over.values() for other in others]
    if not references or any(len(others) > 1 for others in self.over.values()):
      return None
    return statistics.mode(references)


def comparison_page(table: str, entries: Sequence[Entry], comparison: Comparison) -> str:
  """Returns the page of a table of ours, as Markdown."""
  lines = [f'# {comparison.title}', '', comparison.introduction, '']
  for part, missing in comparison.missing.items():
    rows = _rows([each for each in entries if each.part == part])
    lines += [f'## {part}', '']
    if len(rows) > 0:
      lines += _compared(rows, comparison)
    if len(missing) > 0:
      lines += ['Missing:', '', *(f'- {each}' for each in missing), '']
  if len(entries) > 0:
    lines += [f'![{table}]({table}.png)', '']
  return '\n'.join(lines)


def _compared(rows: Mapping[str, Mapping[str, Entry]], comparison: Comparison) -> Iterator[str]:
  """Yields the lines of rows, and of what they are over others: beside them, or in a second table.

  A second table, if there are rows that are compared with several others.
  """
  columns = [at for at in comparison.columns if any(at in row for row in rows.values())]
  cells = {label: [_measured(row.get(at)) for at in columns] for label, row in rows.items()}
  noise = _noise(rows, columns)
  differences = {
    (label, other): [_over(row.get(at), rows[other].get(at), noise[at]) for at in columns]
    for label, row in rows.items()
    for other in comparison.over.get(label, ())
    if other in rows
  }
  if comparison.reference is None:
    yield from _table('top-1 (%)', columns, cells)
    lines = {f'{label} - {other}': line for (label, other), line in differences.items()}
    # Onions have no float precision.
    kept = [i for i in range(len(columns)) if any(line[i] for line in lines.values())]
    if len(kept) > 0:
      lines = {name: [line[i] for i in kept] for name, line in lines.items()}
      yield from _table('difference', [columns[i] for i in kept], lines)
      yield from _about_noise(rows, noise)
    return
  beside = {label: line for (label, _), line in differences.items()}
  titles = [*columns, *(f'Δ {at}' for at in columns if beside)]
  nothing = [''] * (len(columns) if beside else 0)
  lines = {label: [*line, *beside.get(label, nothing)] for label, line in cells.items()}
  yield from _table('top-1 (%)', titles, lines)
  if beside:
    yield from _about_noise(rows, noise)


def page(entries: Sequence[Entry]) -> str:
  """Returns the page of all tables, as Markdown."""
  lines = ["# Ours and the paper's", '', *_introduction(entries)]
  for table in dict.fromkeys(each.table for each in entries):
    of_table = [each for each in entries if each.table == table]
    lines += [f'## {table.capitalize()[:-1]} {table[-1]}', '']
    if table == average_bits.FIGURE:
      lines += [average_bits.note(of_table), '']
    if table == 'figure3':
      lines += [_COSTS, '']
    for part in dict.fromkeys(each.part for each in of_table):
      of_part = [each for each in of_table if each.part == part]
      lines += [f'### {part}', '', *_part(of_part)]
    lines += [f'![{table}]({table}.png)', '']
  return '\n'.join(lines)


_COSTS = """\
Columns are limits on the mean cost, on the half of the test set that points are chosen on: BitOPs
of convolutions relative to the lowest precision, as in the paper. Rows below an order say what its
points took on the other half; `with laterals` counts merging them, too, as 8 x 8 bits."""


def _introduction(entries: Sequence[Entry]) -> Iterator[str]:
  """Yields the lines above the first table."""
  tables = ' '.join(dict.fromkeys(each.table for each in entries))
  yield 'Top-1 accuracy in percent on the test set, last epoch, of the frozen integers. Mean of'
  yield 'the seeds, with their standard deviation and number where there are several. Where network'
  yield 'and data are not those of the paper, accuracies are not comparable; what a system gains'
  yield 'over individual networks is. A mean is over the quantized precisions. fp32 has float'
  yield "weights and activations; in Table 2 its activations have the other systems' bits, as those"
  yield "of the paper's."
  yield ''
  yield f'Written by `dpoq reproduce` ({tables}); the numbers are in `TABLE.csv`.'
  yield ''


def _part(entries: Sequence[Entry]) -> Iterator[str]:
  """Yields the lines of one comparison: ours, the paper's, and two tables of differences."""
  columns = list(dict.fromkeys(each.at for each in entries))
  systems = _rows(entries)
  # The paper's tables have a column of means; over the costs of a figure it would say nothing.
  has_mean = is_table(entries[0].table)
  titles = [*columns, 'mean'] if has_mean else columns
  over = _quantized(columns)
  ours = {system: [_measured(row.get(at)) for at in columns] for system, row in systems.items()}
  if has_mean:
    ours = {system: [*cells, _mean(systems[system], over)] for system, cells in ours.items()}
  yield from _table('ours', titles, ours)
  known = {
    system: row for system, row in systems.items() if any(e.paper is not None for e in row.values())
  }
  if len(known) > 0:
    theirs = {
      system: [_plain(row[at].paper if at in row else None) for at in columns]
      for system, row in known.items()
    }
    if has_mean:
      theirs = {
        system: [*cells, _mean(known[system], over, paper=True)] for system, cells in theirs.items()
      }
    yield from _table("the paper's", titles, theirs)
    differences = {
      system: [_signed(row[at].difference if at in row else None) for at in columns]
      for system, row in known.items()
    }
    yield from _table("ours - the paper's", columns, differences)
  noise, reference = _noise(systems, columns), systems.get(_REFERENCE)
  if reference is not None:
    gains = {
      system: [_gain(at, row, reference, noise[at]) for at in columns]
      for system, row in systems.items()
      if system != _REFERENCE
    }
    yield from _table("over individual networks: ours (the paper's)", columns, gains)
    yield from _about_noise(systems, noise)


def _rows(entries: Sequence[Entry]) -> dict[str, dict[str, Entry]]:
  """Returns the entries of one comparison by row and column."""
  return {
    system: {each.at: each for each in entries if each.system == system}
    for system in dict.fromkeys(each.system for each in entries)
  }


def _over(entry: Entry | None, other: Entry | None, noise: Noise | None) -> str:
  """Writes how far an entry is above another, and whether that is noise; nothing if one is not."""
  if entry is None or other is None:
    return ''
  mark = '≈ ' if within_noise(entry, other, noise) else ''
  return f'{mark}{_signed(entry.ours - other.ours)}'


def _trained(rows: Mapping[str, Mapping[str, Entry]]) -> Iterator[Entry]:
  """Yields the entries of all rows that were trained as they are measured."""
  for system, row in rows.items():
    if not system.startswith(_AFTER_TRAINING):
      yield from row.values()


def _noise(
  rows: Mapping[str, Mapping[str, Entry]], columns: Sequence[str]
) -> dict[str, Noise | None]:
  """Returns the noise of a run in each column: of any precision, and of the mean over them.

  A mean lies closer to that of the next run than its precisions do.
  """
  of_mean = pooled_noise(each for each in _trained(rows) if each.at == MEAN)
  of_precision = pooled_noise(each for each in _trained(rows) if each.at != MEAN)
  return {at: of_mean if at == MEAN else of_precision for at in columns}


def _about_noise(
  rows: Mapping[str, Mapping[str, Entry]], noise: Mapping[str, Noise | None]
) -> Iterator[str]:
  """Yields the lines that say which differences are no findings."""
  known = {at: each for at, each in noise.items() if each is not None}
  if not known:
    yield '≈: a difference of single runs, of which nothing follows.'
    yield ''
    return
  yield '≈: within the noise, no ranking follows: chance alone makes such a difference in more than'
  yield "one of twenty comparisons (Student's t). The standard deviation of a run, pooled over rows"
  of_mean = known.pop(MEAN, None)
  told = [_of_run(each) for each in dict.fromkeys(known.values())]
  told += [] if of_mean is None else [f'of the mean, {_of_run(of_mean)}']
  yield f'with several, is {"; ".join(told)}.'
  left_out = {system for each in noise.values() if each for system in each.broken}
  if left_out:
    yield 'Of these rows a run broke; they are left out of that, and are compared by their own'
    yield f'deviation: {"; ".join(system for system in rows if system in left_out)}.'
  yield ''


def _of_run(noise: Noise) -> str:
  """Writes a standard deviation, and how well it is known."""
  degrees = 'degree' if noise.freedom == 1 else 'degrees'
  return f'{noise.deviation:.2f} ({noise.freedom} {degrees} of freedom)'


def is_table(name: str) -> bool:
  """Tells a table from a figure by its name."""
  return name.startswith('table')


def _table(title: str, columns: Sequence[str], lines: Mapping[str, Sequence[str]]) -> Iterator[str]:
  """Yields the lines of a Markdown table."""
  yield f'| {title} | {" | ".join(columns)} |'
  yield f'| --- |{" ---: |" * len(columns)}'
  for name, cells in lines.items():
    yield f'| {name} | {" | ".join(cells)} |'
  yield ''


def _gain(
  at: str, row: Mapping[str, Entry], reference: Mapping[str, Entry], noise: Noise | None
) -> str:
  """Writes what a system gains over the individual network: our gain, and the paper's if any."""
  reference_at = at if at in reference else _REFERENCE_COLUMNS.get(at, at)
  if at not in row or reference_at not in reference:
    return ''
  entry, individual = row[at], reference[reference_at]
  ours = _over(entry, individual, noise)
  if entry.paper is None or individual.paper is None:
    return ours
  return f'{ours} ({_signed(entry.paper - individual.paper)})'


def _quantized(columns: Sequence[str]) -> list[set[str]]:
  """Returns the columns of quantized precisions, each with the one that stands for it in some rows.

  The float network has a column of its own, and no share in a mean unless it stands for 16 bits.
  """
  return [{at, _REFERENCE_COLUMNS.get(at, at)} for at in columns if at.endswith(' bits')]


def _mean(row: Mapping[str, Entry], over: Sequence[set[str]], paper: bool = False) -> str:
  """Writes the mean of a row over several columns, if none is missing."""
  found = [row.get(next(iter(each & row.keys()), '')) for each in over]
  values = [each and (each.paper if paper else each.ours) for each in found]
  known = [value for value in values if value is not None]
  return _plain(statistics.mean(known)) if len(known) == len(values) > 1 else ''


def _measured(entry: Entry | None) -> str:
  """Writes our number, with standard deviation and number of the seeds if there are several."""
  if entry is None:
    return ''
  if entry.spread is None:
    return _plain(entry.ours)
  return f'{_plain(entry.ours)} ± {entry.spread:.2f} ({entry.seeds})'


def _plain(value: float | None) -> str:
  """Writes a number; nothing if there is none."""
  return '' if value is None else f'{value:.2f}'


def _signed(value: float | None) -> str:
  """Writes a difference with its sign; nothing if there is none."""
  return '' if value is None else f'{value:+.2f}'
