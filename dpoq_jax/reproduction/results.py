"""Writes what was measured beside what the paper reports: `TABLE.csv`, `TABLE.md` and plots.

The CSV file is the record, from which page and plots are made. It has one line for each number of a
table or figure, so that tables can be replaced one by one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import csv
import dataclasses
import io
import pathlib
import statistics

from matplotlib.figure import Figure

from dpoq_jax.reporting import drawing
from dpoq_jax.runtime.files import write_whole

CSV_FILE = 'TABLE.csv'
PAGE_FILE = 'TABLE.md'

# The system that the others are compared with, and the columns in which it is another network: the
# paper compares the 16-bit onion with a float network.
_REFERENCE = 'individual'
_REFERENCE_COLUMNS = {'16 bits': 'fp32'}


@dataclasses.dataclass(frozen=True)
class Entry:
  """Holds one number of a table or figure.

  Attributes:
    table: name of the table or figure.
    part: comparison in it, named by network, data and activations.
    system: system that was measured: the row.
    at: precision or cost at which it was measured: the column.
    ours: mean over seeds, in percent.
    spread: standard deviation over seeds; None if there is one seed.
    seeds: number of seeds.
    paper: number of the paper, in percent; None if it has none.
  """

  table: str
  part: str
  system: str
  at: str
  ours: float
  spread: float | None
  seeds: int
  paper: float | None

  @property
  def difference(self) -> float | None:
    """Returns our number minus the paper's; None if the paper has none."""
    return None if self.paper is None else self.ours - self.paper


def entry(
  table: str, part: str, system: str, at: str, values: Sequence[float], paper: float | None
) -> Entry:
  """Returns the entry of the values of all seeds, in percent."""
  spread = statistics.stdev(values) if len(values) > 1 else None
  return Entry(table, part, system, at, statistics.mean(values), spread, len(values), paper)


def write(folder: pathlib.Path, table: str, entries: Sequence[Entry]) -> None:
  """Replaces one table in `TABLE.csv`, draws it, and writes the page of all tables anew.

  Args:
    folder: folder of the results of one scale.
    table: name of the table or figure.
    entries: its numbers, in the order of rows.
  """
  folder.mkdir(parents=True, exist_ok=True)
  others = [each for each in read(folder) if each.table != table]
  everything = sorted([*others, *entries], key=lambda each: each.table)
  _write_csv(folder / CSV_FILE, everything)
  if _is_table(table) and len(entries) > 0:
    (folder / f'{table}.png').write_bytes(_draw(table, entries).png)
  write_whole(folder / PAGE_FILE, page(everything))


def read(folder: pathlib.Path) -> list[Entry]:
  """Reads the entries of `TABLE.csv`; there are none if there is no such file."""
  path = folder / CSV_FILE
  if not path.is_file():
    return []
  return [
    Entry(
      row['table'],
      row['part'],
      row['system'],
      row['at'],
      float(row['ours']),
      float(row['spread']) if row['spread'] else None,
      int(row['seeds']),
      float(row['paper']) if row['paper'] else None,
    )
    for row in csv.DictReader(io.StringIO(path.read_text('utf-8')))
  ]


def page(entries: Sequence[Entry]) -> str:
  """Returns the page of all tables, as Markdown."""
  lines = ["# Ours and the paper's", '', *_introduction(entries)]
  for table in dict.fromkeys(each.table for each in entries):
    of_table = [each for each in entries if each.table == table]
    lines += [f'## {table.capitalize()[:-1]} {table[-1]}', '']
    for part in dict.fromkeys(each.part for each in of_table):
      of_part = [each for each in of_table if each.part == part]
      lines += [f'### {part}', '', *_part(of_part)]
    lines += [f'![{table}]({table}.png)', '']
  return '\n'.join(lines)


def _introduction(entries: Sequence[Entry]) -> Iterator[str]:
  """Yields the lines above the first table."""
  tables = ' '.join(dict.fromkeys(each.table for each in entries))
  yield 'Top-1 accuracy in percent on the test set, last epoch, of the frozen integers. Mean of'
  yield 'the seeds, with their standard deviation and number where there are several. Where network'
  yield 'and data are not those of the paper, accuracies are not comparable; what a system gains'
  yield 'over individual networks is.'
  yield ''
  yield f'Written by `python -m dpoq_jax.reproduce` ({tables}); the numbers are in `{CSV_FILE}`.'
  yield ''


def _part(entries: Sequence[Entry]) -> Iterator[str]:
  """Yields the lines of one comparison: ours, the paper's, and two tables of differences."""
  columns = list(dict.fromkeys(each.at for each in entries))
  systems = {
    system: {each.at: each for each in entries if each.system == system}
    for system in dict.fromkeys(each.system for each in entries)
  }
  # The paper's tables have a column of means; over the costs of a figure it would say nothing.
  has_mean = _is_table(entries[0].table)
  titles = [*columns, 'mean'] if has_mean else columns
  ours = {system: [_measured(row.get(at)) for at in columns] for system, row in systems.items()}
  if has_mean:
    ours = {system: [*cells, _mean(systems[system])] for system, cells in ours.items()}
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
        system: [*cells, _mean(known[system], paper=True)] for system, cells in theirs.items()
      }
    yield from _table("the paper's", titles, theirs)
    differences = {
      system: [_signed(row[at].difference if at in row else None) for at in columns]
      for system, row in known.items()
    }
    yield from _table("ours - the paper's", columns, differences)
  reference = systems.pop(_REFERENCE, None)
  if reference is not None:
    gains = {
      system: [_gain(at, row, reference) for at in columns] for system, row in systems.items()
    }
    yield from _table("over individual networks: ours (the paper's)", columns, gains)


def _is_table(name: str) -> bool:
  """Tells a table from a figure by its name."""
  return name.startswith('table')


def _table(title: str, columns: Sequence[str], lines: Mapping[str, Sequence[str]]) -> Iterator[str]:
  """Yields the lines of a Markdown table."""
  yield f'| {title} | {" | ".join(columns)} |'
  yield f'| --- |{" ---: |" * len(columns)}'
  for name, cells in lines.items():
    yield f'| {name} | {" | ".join(cells)} |'
  yield ''


def _gain(at: str, row: Mapping[str, Entry], reference: Mapping[str, Entry]) -> str:
  """Writes what a system gains over the individual network: our gain, and the paper's if any."""
  reference_at = at if at in reference else _REFERENCE_COLUMNS.get(at, at)
  if at not in row or reference_at not in reference:
    return ''
  entry, individual = row[at], reference[reference_at]
  ours = _signed(entry.ours - individual.ours)
  if entry.paper is None or individual.paper is None:
    return ours
  return f'{ours} ({_signed(entry.paper - individual.paper)})'


def _mean(row: Mapping[str, Entry], paper: bool = False) -> str:
  """Writes the mean of a row, if it has several numbers and none is missing."""
  values = [each.paper if paper else each.ours for each in row.values()]
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


def _write_csv(path: pathlib.Path, entries: Iterable[Entry]) -> None:
  """Writes entries as CSV, each with its difference from the paper's number."""
  text = io.StringIO()
  fields = [field.name for field in dataclasses.fields(Entry)]
  writer = csv.DictWriter(text, [*fields, 'difference'], lineterminator='\n')
  writer.writeheader()
  for each in entries:
    values = {**dataclasses.asdict(each), 'difference': each.difference}
    writer.writerow({k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()})
  write_whole(path, text.getvalue())


def _draw(table: str, entries: Sequence[Entry]) -> drawing.Plot:
  """Draws the accuracy of every system over the columns, ours left and the paper's right."""
  parts = list(dict.fromkeys(each.part for each in entries))
  with drawing.style(table):
    figure = Figure(figsize=(11, 4.4 * len(parts)))
    panels = figure.subplots(len(parts), 2, squeeze=False)
    for part, (left, right) in zip(parts, panels, strict=True):
      of_part = [each for each in entries if each.part == part]
      columns = list(dict.fromkeys(each.at for each in of_part))
      for number, system in enumerate(dict.fromkeys(each.system for each in of_part)):
        row = [each for each in of_part if each.system == system]
        look = {
          'color': drawing.colour(number),
          'marker': 'os^v'[number % 4],
          'linestyle': drawing.DASHES[number // 8 % len(drawing.DASHES)],
          'label': system,
        }
        places = [columns.index(each.at) for each in row]
        spread = [each.spread or 0.0 for each in row]
        left.errorbar(places, [each.ours for each in row], spread, **look)
        theirs = [(columns.index(e.at), e.paper) for e in row if e.paper is not None]
        if len(theirs) > 0:
          right.plot(*zip(*theirs, strict=True), **look)
      left.set(title=part, ylabel='top-1 (%)')
      right.set(title="the paper's")
      for axes in (left, right):
        axes.set_xticks(range(len(columns)), columns)
      left.legend(fontsize=8, loc='lower right')
    return drawing.render(figure)
