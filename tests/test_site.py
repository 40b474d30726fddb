"""The site of the documents: built without a warning, whole, and without a network."""

from collections.abc import Iterator
import functools
import html.parser
import http.server
import json
import os
import pathlib
import re
import subprocess
import sys
import threading

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

import dpoq_jax
from dpoq_jax import nn
from dpoq_jax.deploy.web import runtime
from tests import browser, conftest, executed_notebooks, npm

ROOT = pathlib.Path(__file__).resolve().parents[1]

# In continuous integration all of it is installed.
if not os.environ.get('CI'):
  pytest.importorskip('mkdocs', reason='mkdocs is not installed (launch/requirements-docs.txt)')
  pytest.importorskip('griffe', reason='griffe is not installed (launch/requirements-docs.txt)')


def test_configuration_is_what_the_schema_says():
  configuration = executed_notebooks.script('configuration')
  assert configuration.PAGE.read_text() == configuration.text()


@pytest.mark.parametrize('name', ['levels', 'paths', 'cost'])
def test_figures_are_what_the_code_draws(name: str):
  figures = executed_notebooks.script('figures')
  assert set(figures.FIGURES) == {path.stem for path in figures.FOLDER.glob('*.svg')}
  assert (figures.FOLDER / f'{name}.svg').read_text() == figures.svg(name)


def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
  """Returns the folder of the demo; where its runtime cannot be had, one that is not there."""
  demo = executed_notebooks.script('demo')
  try:
    brought = runtime.read(npm.runtime_folder(tmp_path_factory))
  except pytest.skip.Exception:
    return str(tmp_path_factory.getbasetemp() / 'no_demo')
  return str(conftest.once(tmp_path_factory, 'demo', lambda path: demo.write(path, brought)))


@pytest.fixture(scope='session')
def site(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Folder of the site, built as in continuous integration: warnings are errors."""
  # Of one notebook there are outputs to show.
  executed = executed_notebooks.folder('deploy', tmp_path_factory, short=False)
  shown = demo_folder(tmp_path_factory)

  def make(folder: pathlib.Path) -> None:
    done = subprocess.run(
      [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', folder],
      cwd=ROOT,
      env={
        **os.environ,
        'NO_MKDOCS_2_WARNING': '1',
        'EXECUTED_NOTEBOOKS': str(executed),
        'DEMO': shown,
      },
      capture_output=True,
      text=True,
      check=False,
      timeout=300,
    )
    assert done.returncode == 0, done.stderr

  return conftest.once(tmp_path_factory, 'site', make)


class Elements(html.parser.HTMLParser):
  """The elements of a page, with their attributes."""

  def __init__(self, path: pathlib.Path):
    super().__init__()
    self.found: list[tuple[str, dict[str, str | None]]] = []
    self.feed(path.read_text())

  def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
    self.found.append((tag, dict(attrs)))


def test_site_loads_nothing_from_a_network(site: pathlib.Path):
  pages = list(site.rglob('*.html'))
  assert len(pages) > 25
  for page in pages:
    for tag, attributes in Elements(page).found:
      loaded = attributes.get('src') or (attributes.get('href') if tag == 'link' else None) or ''
      assert not re.match(r'(\w+:)?//', loaded), (page, loaded)
  for style in site.rglob('*.css'):
    assert not re.search(r'(url\(|@import)\s*["\']?(https?:)?//', style.read_text()), style


def test_every_link_of_the_site_leads_somewhere(site: pathlib.Path):
  anchors: dict[pathlib.Path, set[str | None]] = {}
  pages = {page: Elements(page).found for page in site.rglob('*.html') if page.name != '404.html'}
  for page, elements in pages.items():
    anchors[page] = {attributes.get('id') for _, attributes in elements}
  for page, elements in pages.items():
    for tag, attributes in elements:
      target = attributes.get('href' if tag == 'a' else 'src') or ''
      path, _, anchor = target.partition('#')
      if not re.match(r'\w+:', target):
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), (page, target)
        assert not anchor or file not in anchors or anchor in anchors[file], (page, target)


def test_notebooks_are_pages_with_their_outputs(site: pathlib.Path):
  names = executed_notebooks.script('notebooks').NAMES
  pages = {name: (site / 'notebooks' / f'{name}.html').read_text() for name in names}
  assert 'Outputs are of a run of the whole notebook' in pages['deploy']
  assert re.search(r'labels equal to those in JAX: \d', pages['deploy'])
  pictures = {
    attributes['src'] or ''
    for tag, attributes in Elements(site / 'notebooks' / 'deploy.html').found
    if tag == 'img'
  }
  (plot,) = (each for each in pictures if each.startswith('deploy/'))
  assert (site / 'notebooks' / plot).read_bytes().startswith(b'\x89PNG')
  for name in names:
    assert (site / 'notebooks' / f'{name}.ipynb').exists()
    if name != 'deploy':
      assert 'Outputs are not shown' in pages[name]


def test_reference_has_every_public_name(site: pathlib.Path):
  text = (ROOT / 'docs' / 'api.md').read_text()
  listed = set(re.findall(r'^::: ([\w.]+)$', text, re.MULTILINE))
  names = {name: getattr(dpoq_jax, name) for name in dir(dpoq_jax) if not name.startswith('_')}
  named = {**names, **{name: getattr(nn, name) for name in nn.__all__}}
  classes = {
    f'{value.__module__}.{value.__qualname__}'
    for value in named.values()
    if getattr(value, '__module__', '').startswith('dpoq_jax')
  }
  assert len(classes) > 12
  assert classes <= listed
  ids = {attributes.get('id') for _, attributes in Elements(site / 'api.html').found}
  assert listed - {'dpoq_jax.onion', 'dpoq_jax.pretrained'} <= ids
  assert {'dpoq_jax.onion.truncate', 'dpoq_jax.pretrained.names'} <= ids


class Quiet(http.server.SimpleHTTPRequestHandler):
  """Serves files without a line for each."""

  def log_message(self, format: str, *args: object) -> None:
    del format, args


@pytest.fixture
def address(site: pathlib.Path) -> Iterator[str]:
  """Where the site is served."""
  server = http.server.ThreadingHTTPServer(
    ('localhost', 0), functools.partial(Quiet, directory=str(site))
  )
  threading.Thread(target=server.serve_forever, daemon=True).start()
  try:
    yield f'http://localhost:{server.server_address[1]}'
  finally:
    server.shutdown()
    server.server_close()


def test_browser_shows_pages_without_an_error(address: str, tmp_path: pathlib.Path):
  with browser.opened() as driver:
    for page in ('index', 'how_to/operating_point', 'concepts', 'notebooks/deploy'):
      driver.get(f'{address}/{page}.html')
      assert driver.find_element(By.TAG_NAME, 'h1').is_displayed()
      for image in driver.find_elements(By.CSS_SELECTOR, 'article img'):
        width = driver.execute_script('return arguments[0].naturalWidth', image)
        assert width > 0, image.get_attribute('src')
      assert driver.save_screenshot(str(tmp_path / 'page.png'))
      assert driver.get_log('browser') == []
    events = [json.loads(entry['message'])['message'] for entry in driver.get_log('performance')]
  urls = {
    event['params']['request']['url']
    for event in events
    if event['method'] == 'Network.requestWillBeSent'
  }
  assert f'{address}/index.html' in urls
  assert all(url.startswith((address, 'data:', 'blob:', 'chrome')) for url in urls), urls


def test_the_demo_labels_an_image_within_its_page(
  address: str, site: pathlib.Path, tmp_path_factory: pytest.TempPathFactory, tmp_path: pathlib.Path
):
  npm.runtime_folder(tmp_path_factory)  # skips where there is none
  first = json.loads((site / 'demo' / 'network.json').read_text())
  name = first['class_names'][first['images'][0]['label']]
  with browser.opened('--window-size=1280,1600') as driver:
    driver.get(f'{address}/demo.html')
    driver.switch_to.frame(driver.find_element(By.TAG_NAME, 'iframe'))
    wait = WebDriverWait(driver, 60)
    wait.until(lambda driver: 'All rings are here' in driver.find_element(By.ID, 'status').text)
    driver.find_elements(By.CSS_SELECTOR, '#thumbs button')[0].click()
    wait.until(lambda driver: name in driver.find_element(By.ID, 'answer').text)
    assert driver.save_screenshot(str(tmp_path / 'demo.png'))
    assert driver.get_log('browser') == []
