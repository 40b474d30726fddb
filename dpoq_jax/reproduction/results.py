"""What was measured, beside what the paper reports: `TABLE.csv`, `TABLE.md` and plots.

The CSV file is the record; the page and the plots are drawn from it. One number of a table or
figure is one line of it, so that tables can be made one by one.
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

_REFERENCE = 'individual'
# Where a float network stands beside the paper's 16-bit onion.
_BESIDE = {'16 bits': 'fp32'}


@dataclasses.dataclass(frozen=True)
class Entry:
  """One number.

  Attributes:
    table: table or figure.
    part: which comparison in it: network, data, activations.
    system: the row.
    at: the column: a precision, a cost.
    ours: mean over seeds, in percent.
    spread: standard deviation over seeds; None for one seed.
    seeds: how many.
    paper: the paper's number; None if it has none.
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
    """Ours minus the paper's."""
    return None if self.paper is None else self.ours - self.paper


def entry(
  table: str, part: str, system: str, at: str, values: Sequence[float], paper: float | None
) -> Entry:
  """An entry of the values of several seeds, in percent."""
  spread = statistics.stdev(values) if len(values) > 1 else None
  return Entry(table, part, system, at, statistics.mean(values), spread, len(values), paper)


def write(folder: pathlib.Path, table: str, entries: Sequence[Entry]) -> None:
  """Replaces one table in `TABLE.csv`, draws it, and writes the page of all there are anew.

  Args:
    folder: of one scale's results.
    table: which.
    entries: its numbers, in the order of rows.
  """
  folder.mkdir(parents=True, exist_ok=True)
  others = [each for each in read(folder) if each.table != table]
  everything = sorted([*others, *entries], key=lambda each: each.table)
  _write_csv(folder / CSV_FILE, everything)
  if table.startswith('table') and entries:
    (folder / f'{table}.png').write_bytes(_draw(table, entries).png)
  write_whole(folder / PAGE_FILE, page(everything))


def read(folder: pathlib.Path) -> list[Entry]:
  """The entries in `TABLE.csv`, none if there is no such file."""
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
  """All tables as Markdown."""
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
  tables = ' '.join(dict.fromkeys(each.table for each in entries))
  yield 'Top-1 accuracy in percent on the test set, last epoch, of the frozen integers. Mean of'
  yield 'the seeds, with their standard deviation and number where there are several. Where network'
  yield 'and data are not those of the paper, accuracies are not comparable; what a system gains'
  yield 'over individual networks is.'
  yield ''
  yield f'Written by `python -m dpoq_jax.reproduce` ({tables}); the numbers are in `{CSV_FILE}`.'
  yield ''


def _part(entries: Sequence[Entry]) -> Iterator[str]:
  """The tables of one comparison."""
  columns = list(dict.fromkeys(each.at for each in entries))
  rows = {
    system: {each.at: each for each in entries if each.system == system}
    for system in dict.fromkeys(each.system for each in entries)
  }
  # As in the paper's tables; over the costs of a figure it would say nothing.
  mean = ['mean'] if entries[0].table.startswith('table') else []
  ours = {
    system: [*(_measured(row.get(at)) for at in columns), *(_mean(row) for _ in mean)]
    for system, row in rows.items()
  }
  yield from _table('ours', [*columns, *mean], ours)
  known = {
    system: row for system, row in rows.items() if any(e.paper is not None for e in row.values())
  }
  if known:
    theirs = {
      system: [
        *(_plain(row[at].paper if at in row else None) for at in columns),
        *(_mean(row, paper=True) for _ in mean),
      ]
      for system, row in known.items()
    }
    yield from _table("the paper's", [*columns, *mean], theirs)
    differences = {
      system: [_signed(row[at].difference if at in row else None) for at in columns]
      for system, row in known.items()
    }
    yield from _table("ours - the paper's", columns, differences)
  if reference := rows.pop(_REFERENCE, None):
    gains = {system: [_gain(at, row, reference) for at in columns] for system, row in rows.items()}
    yield from _table("over individual networks: ours (the paper's)", columns, gains)


def _table(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> Iterator[str]:
  yield f'| {title} | {" | ".join(columns)} |'
  yield f'| --- |{" ---: |" * len(columns)}'
  for name, figures in rows.items():
    yield f'| {name} | {" | ".join(figures)} |'
  yield ''


def _gain(at: str, row: Mapping[str, Entry], reference: Mapping[str, Entry]) -> str:
  """What an entry has over the individual network of the same column."""
  beside = at if at in reference else _BESIDE.get(at, at)
  if at not in row or beside not in reference:
    return ''
  ours = _signed(row[at].ours - reference[beside].ours)
  paper, theirs = row[at].paper, reference[beside].paper
  return ours if paper is None or theirs is None else f'{ours} ({_signed(paper - theirs)})'


def _mean(row: Mapping[str, Entry], paper: bool = False) -> str:
  values = [each.paper if paper else each.ours for each in row.values()]
  known = [value for value in values if value is not None]
  return _plain(statistics.mean(known)) if len(known) == len(values) > 1 else ''


def _measured(each: Entry | None) -> str:
  if each is None:
    return ''
  return _plain(each.ours) + ('' if each.spread is None else f' ± {each.spread:.2f} ({each.seeds})')


def _plain(value: float | None) -> str:
  return '' if value is None else f'{value:.2f}'


def _signed(value: float | None) -> str:
  return '' if value is None else f'{value:+.2f}'


def _write_csv(path: pathlib.Path, entries: Iterable[Entry]) -> None:
  text = io.StringIO()
  fields = [field.name for field in dataclasses.fields(Entry)]
  writer = csv.DictWriter(text, [*fields, 'difference'], lineterminator='\n')
  writer.writeheader()
  for each in entries:
    values = {**dataclasses.asdict(each), 'difference': each.difference}
    writer.writerow({k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()})
  write_whole(path, text.getvalue())


def _draw(table: str, entries: Sequence[Entry]) -> drawing.Plot:
  """Accuracy of every system over the columns, ours left and the paper's right."""
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
        if theirs:
          right.plot(*zip(*theirs, strict=True), **look)
      left.set(title=part, ylabel='top-1 (%)')
      right.set(title="the paper's")
      for axes in (left, right):
        axes.set_xticks(range(len(columns)), columns)
      left.legend(fontsize=8, loc='lower right')
    return drawing.render(figure)
