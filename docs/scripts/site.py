"""Brings what pages link to outside docs/ into the site, so that no link leads out of it.

A hook of MkDocs (`mkdocs.yml`). Pages are written for those who read them in the repository, where
`../results/README.md` is a file; in the site it is `results/README.md`.
"""

import pathlib
import posixpath
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_ROOT = pathlib.Path(__file__).parents[2]
_DOCS = 'docs/'
# Results with their tables, plots and numbers, and what stands at the root for those who change it.
_OUTSIDE = ('results/**/*', 'CHANGELOG.md', 'CONTRIBUTING.md', 'CITATION.cff')
_LINK = re.compile(r'(?<=\]\()(?!\w+:|#)([^)#\s]+)')


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
  """Adds the files outside docs/."""
  for pattern in _OUTSIDE:
    for path in filter(pathlib.Path.is_file, sorted(_ROOT.glob(pattern))):
      name = path.relative_to(_ROOT).as_posix()
      files.append(File(name, str(_ROOT), config.site_dir, config.use_directory_urls))
  return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
  """Leads the links of a page to where files are in the site."""
  here = page.file.src_uri
  folder = posixpath.dirname(here if here in _outside(files) else _DOCS + here)

  def moved(match: re.Match[str]) -> str:
    target = posixpath.normpath(posixpath.join(folder, match[1])).removeprefix(_DOCS)
    return posixpath.relpath(target, posixpath.dirname(here) or '.')

  return _LINK.sub(moved, markdown)


def _outside(files: Files) -> set[str]:
  """Returns the names of the files that came from outside docs/."""
  return {file.src_uri for file in files if file.src_dir == str(_ROOT)}
