"""Brings what pages link to outside docs/ into the site, so that no link leads out of it.

A hook of MkDocs (`mkdocs.yml`). Pages are written for those who read them in the repository, where
`../results/README.md` is a file; in the site it is `results/README.md`.
"""

import pathlib
import posixpath
import re

import demo  # beside this file
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import notebooks  # beside this file

_ROOT = pathlib.Path(__file__).parents[2]
_DOCS = 'docs/'
# Results with their tables, plots and numbers, and what stands at the root for those who change it.
_OUTSIDE = (
  'results/**/*',
  'notebooks/README.md',
  'notebooks/*.ipynb',
  'CHANGELOG.md',
  'CONTRIBUTING.md',
  'CITATION.cff',
)
_PAGES_OF_NOTEBOOKS = tuple(f'notebooks/{name}.md' for name in notebooks.NAMES)
_DEMO, _PLACE_OF_DEMO = 'demo.md', '<!-- demo -->'
_FRAME = """\
<iframe src="demo/index.html" title="ResNet-20 in the browser" allow="camera"
  style="width: 100%; height: 70rem; border: 0"></iframe>

[The page alone](demo/index.html) fits a phone.
"""
_NO_DEMO = """\
!!! note
    The page was not made when this site was built: `python docs/scripts/demo.py` makes it.
"""
_LINK = re.compile(r'(?<=\]\()(?!\w+:|#)([^)#\s]+)')


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
  """Adds the files outside docs/, and a page for each notebook."""
  for pattern in _OUTSIDE:
    for path in filter(pathlib.Path.is_file, sorted(_ROOT.glob(pattern))):
      name = path.relative_to(_ROOT).as_posix()
      files.append(File(name, str(_ROOT), config.site_dir, config.use_directory_urls))
  # What cannot be made without npm or its packages, so that it is made before, if at all.
  for path in filter(pathlib.Path.is_file, sorted(demo.where().rglob('*'))):
    name = f'demo/{path.relative_to(demo.where()).as_posix()}'
    files.append(File.generated(config, name, abs_src_path=str(path)))
  for name, uri in zip(notebooks.NAMES, _PAGES_OF_NOTEBOOKS, strict=True):
    text, pictures = notebooks.page(name)
    files.append(File.generated(config, uri, content=text))
    for path, content in pictures.items():
      files.append(File.generated(config, f'notebooks/{path}', content=content))
  return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
  """Leads the links of a page to where files are in the site."""
  here = page.file.src_uri
  folder = posixpath.dirname(here if here in _outside(files) else _DOCS + here)

  def moved(match: re.Match[str]) -> str:
    target = posixpath.normpath(posixpath.join(folder, match[1])).removeprefix(_DOCS)
    # Where there is a page of a notebook, other pages lead there; the file itself is on it.
    as_page = posixpath.splitext(target)[0] + '.md'
    if as_page in _PAGES_OF_NOTEBOOKS and here != as_page:
      target = as_page
    return posixpath.relpath(target, posixpath.dirname(here) or '.')

  if here == _DEMO:
    shown = 'demo/index.html' in files.src_uris
    markdown = markdown.replace(_PLACE_OF_DEMO, _FRAME if shown else _NO_DEMO)
  return _LINK.sub(moved, markdown)


def _outside(files: Files) -> set[str]:
  """Returns the names of the files that came from outside docs/."""
  brought = {file.src_uri for file in files if file.src_dir == str(_ROOT)}
  return brought.union(_PAGES_OF_NOTEBOOKS)
