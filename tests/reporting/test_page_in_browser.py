"""The page in a browser: what a reader does on it."""

from collections.abc import Iterator
import json
import pathlib
import time
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from dpoq_jax.inference import calibration, curve, operating_point
from tests import browser as browser_lib
from tests.reporting.made_up import HOSTILE, Page, outcome_shown


@pytest.fixture(scope='module')
def browser() -> Iterator[webdriver.Chrome]:
  with browser_lib.opened() as driver:
    yield driver


@pytest.fixture
def opened(browser: webdriver.Chrome, made, tmp_path: pathlib.Path) -> Iterator[webdriver.Chrome]:
  """The browser on the page; afterwards nothing may have gone wrong, or over a network."""
  path, _ = made
  where = {'behavior': 'allow', 'downloadPath': str(tmp_path)}
  browser.execute_cdp_cmd('Browser.setDownloadBehavior', where)
  browser.get_log('performance')
  browser.get(path.as_uri())
  yield browser
  assert browser.get_log('browser') == []
  events = [json.loads(entry['message'])['message'] for entry in browser.get_log('performance')]
  requests = [
    event['params']['request']['url']
    for event in events
    if event['method'] == 'Network.requestWillBeSent'
  ]
  assert path.as_uri() in requests
  assert {url.partition(':')[0] for url in requests} <= {'file', 'data', 'blob'}


def shown_on(driver: webdriver.Chrome) -> dict[str, Any]:
  """What the page shows of the point chosen."""
  cells = driver.find_elements(By.CSS_SELECTOR, '[data-shown]')
  rows = driver.find_elements(By.CSS_SELECTOR, '#precisions tbody tr')
  marker = driver.find_element(By.ID, 'marker')
  return {
    'shown': {cell.get_attribute('data-shown'): cell.text for cell in cells},
    'precisions': [[c.text for c in row.find_elements(By.TAG_NAME, 'td')] for row in rows],
    'at': [float(marker.get_attribute(name) or '') for name in ('cx', 'cy')],
  }


def downloaded(driver: webdriver.Chrome, folder: pathlib.Path) -> pathlib.Path:
  driver.find_element(By.ID, 'download').click()
  path = folder / operating_point.FILE
  deadline = time.monotonic() + 20
  # Chromium holds the name with an empty file, then puts the whole one in its place.
  while not path.exists() or not path.stat().st_size:
    assert time.monotonic() < deadline, f'no {path.name} among {list(folder.iterdir())}'
    time.sleep(0.05)
  return path


def set_slider(driver: webdriver.Chrome, index: int) -> None:
  script = 'arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event("input"));'
  driver.execute_script(script, driver.find_element(By.ID, 'point'), index)


def without_file(entry: dict[str, Any]) -> dict[str, Any]:
  return {name: value for name, value in entry.items() if name != 'file'}


def test_browser_starts_at_the_current_point_and_follows_the_keys(opened, made):
  path, arguments = made
  of_order = Page(path).data()[arguments['point'].order]
  points, current = of_order['points'], of_order['current']
  slider = opened.find_element(By.ID, 'point')
  back = opened.find_element(By.ID, 'back')
  assert shown_on(opened) == without_file(points[current])
  assert not back.is_enabled()
  slider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
  assert shown_on(opened) == without_file(points[current + 2])
  slider.send_keys(Keys.ARROW_LEFT)
  assert shown_on(opened) == without_file(points[current + 1])
  assert points[current + 1]['shown']['cost'] in (slider.get_attribute('aria-valuetext') or '')
  slider.send_keys(Keys.HOME)
  assert shown_on(opened) == without_file(points[0])
  slider.send_keys(Keys.END)
  assert shown_on(opened) == without_file(points[-1])
  back.click()
  assert shown_on(opened) == without_file(points[current])
  assert int(slider.get_attribute('value') or '') == current


@pytest.mark.parametrize('order', curve.ORDERS)
def test_browser_hands_out_the_point_that_it_shows(opened, made, tmp_path: pathlib.Path, order):
  path, arguments = made
  points = Page(path).data()[order]['points']
  select = Select(opened.find_element(By.ID, 'order'))
  before = shown_on(opened)
  select.select_by_value(order)
  # Another order is shown at about the same cost.
  assert abs(shown_on(opened)['at'][0] - before['at'][0]) < 5
  for index in (len(points) // 3, len(points) - 1):
    set_slider(opened, index)
    page = shown_on(opened)
    assert page == without_file(points[index])
    file = downloaded(opened, tmp_path)
    assert file.read_text() == points[index]['file']
    point = operating_point.read(file)
    assert point.order == order
    shown = outcome_shown(point, arguments['calibration'])
    others = outcome_shown(point, arguments['reported'])
    assert page['shown'] == shown | {f'reported-{name}': text for name, text in others.items()}
    assert point.reported == calibration.outcome(point, arguments['reported'])
    file.unlink()


def test_browser_runs_nothing_that_a_name_holds(opened):
  assert opened.execute_script('return typeof boom') == 'undefined'
  assert opened.title == 'A run of <i>three</i> precisions & more'
  images = opened.find_elements(By.CSS_SELECTOR, '.cards img')
  assert {HOSTILE[2]} & {
    (image.get_attribute('alt') or '').split(', predicted ')[0] for image in images
  }
  loaded = 'return arguments[0].complete && arguments[0].naturalWidth === 4'
  assert all(opened.execute_script(loaded, image) for image in images)


@pytest.mark.parametrize('width', [340, 800, 1400])
def test_browser_needs_no_sideways_scrolling(opened, width):
  metrics = {'width': width, 'height': 900, 'deviceScaleFactor': 1, 'mobile': False}
  opened.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', metrics)
  scroll = opened.execute_script('return document.documentElement.scrollWidth')
  opened.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
  assert scroll <= width
