"""Keeps what was measured as `TABLE.csv`, and makes pages and plots of it.

The CSV file is the record, from which page and plots are made. It has one line for each number of a
table or figure. The paper's share one file and one page, and are replaced one by one; a table of
ours has a file and a page of its own, `ABLATION.csv` and `ABLATION.md`.
"""

from collections.abc import Iterable, Sequence
import csv
import dataclasses
import io
import pathlib

from dpoq_jax.reproduction import charts, pages
from dpoq_jax.reproduction.entries import DIGITS, Entry
from dpoq_jax.runtime.files import write_whole

_OF_PAPER = 'TABLE'


def write(folder: pathlib.Path, table: str, entries: Sequence[Entry]) -> pathlib.Path:
  """Replaces one table in `TABLE.csv`, draws it, and writes the page of all tables anew.

  Args:
    folder: folder of the results of one scale.
    table: name of the table or figure.
    entries: its numbers, in the order of rows.

  Returns:
    The page.
  """
  folder.mkdir(parents=True, exist_ok=True)
  others = [each for each in read(folder) if each.table != table]
  everything = sorted([*others, *entries], key=lambda each: each.table)
  _write_csv(folder / f'{_OF_PAPER}.csv', everything)
  if pages.is_table(table) and len(entries) > 0:
    write_whole(folder / f'{table}.png', charts.lines(table, entries).png)
  return _write_page(folder / f'{_OF_PAPER}.md', pages.page(everything))


def write_comparison(
  folder: pathlib.Path, table: str, entries: Sequence[Entry], comparison: pages.Comparison
) -> pathlib.Path:
  """Writes the record, the page and the plot of a table of ours; returns the page.

  Args:
    folder: folder of the results of one scale.
    table: name of the table.
    entries: its numbers, in the order of rows.
    comparison: what else the page says.
  """
  folder.mkdir(parents=True, exist_ok=True)
  _write_csv(folder / f'{table.upper()}.csv', entries)
  if len(entries) > 0:
    drawn = charts.dots(table, entries, comparison.columns, comparison.reference)
    write_whole(folder / f'{table}.png', drawn.png)
  page = pages.comparison_page(table, entries, comparison)
  return _write_page(folder / f'{table.upper()}.md', page)


def read(folder: pathlib.Path) -> list[Entry]:
  """Reads the entries of `TABLE.csv`; there are none if there is no such file.

  Raises:
    ValueError: if it was damaged, in one line that names it.
  """
  path = folder / f'{_OF_PAPER}.csv'
  if not path.is_file():
    return []
  try:
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
  # A line that was cut short has None in the fields that it lacks.
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f'{path} is no record of tables ({error}): move it away, and make its tables anew.'
    ) from None


def _write_page(path: pathlib.Path, page: str) -> pathlib.Path:
  """Writes a page whole, and returns its path."""
  write_whole(path, page)
  return path


def _write_csv(path: pathlib.Path, entries: Iterable[Entry]) -> None:
  """Writes entries as CSV, each with its difference from the paper's number."""
  text = io.StringIO()
  fields = [field.name for field in dataclasses.fields(Entry)]
  writer = csv.DictWriter(text, [*fields, 'difference'], lineterminator='\n')
  writer.writeheader()
  for each in entries:
    difference = None if each.difference is None else round(each.difference, DIGITS)
    writer.writerow({**dataclasses.asdict(each), 'difference': difference})
  write_whole(path, text.getvalue())
