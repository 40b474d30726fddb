import base64
from collections.abc import Iterator
import html.parser
import io
import json
import os
import pathlib
import re
import shutil
import time
from typing import Any

import numpy as np
from PIL import Image
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from dpoq_jax.inference import calibration, curve, operating_point
from dpoq_jax.inference.calibration import Examples
from dpoq_jax.inference.operating_point import OperatingPoint, Target
from dpoq_jax.reporting import page as page_lib

PLOTS = ('training', 'accuracy_vs_bits', 'rerun_curves', 'exits')
HOSTILE = (
  '</script><script>boom()</script>',
  '<img src=x onerror=boom()>',
  '"&\' $x_$ {{ 1 }} \u00e9',
)


def problem(bits: tuple[int, ...], examples: int = 400, classes: int = 3) -> dict[str, Any]:
  """Arguments of `report.write` for a made-up network: higher precisions are better, some ties."""
  random = np.random.default_rng(sum(bits))
  labels = random.integers(0, classes, 2 * examples)
  logits = random.normal(size=(len(bits), 2 * examples, classes)) + random.normal(
    size=(2 * examples, classes)
  )
  logits[:, np.arange(2 * examples), labels] += np.arange(1, len(bits) + 1)[:, None]
  logits = np.round(logits, 2).astype(np.float32)
  first = Examples(logits[:, :examples], labels[:examples], 'the first <half>')
  second = Examples(logits[:, examples:], labels[examples:], 'the second half')
  rows = [
    {'step': step, 'kind': kind, 'epoch': step / 10, 'skipped': 0}
    | {name: {str(b): 1 / (step + b) for b in bits} for name in ('loss', 'top1')}
    for step in (5, 10, 20)
    for kind in ('train', 'eval')
  ]
  settings = calibration.Settings(Target(kind='average_bits', value=bits[0] * 1.5))
  point, *_ = calibration.choose(first, second, bits, settings, dataset='made-up', step=20)
  return {
    'title': 'A run of <i>three</i> precisions & more',
    'rows': rows,
    'calibration': first,
    'reported': second,
    'images': random.integers(0, 256, (examples, 5, 4, 3)).astype(np.uint8),
    'class_names': [HOSTILE[k % 3] for k in range(classes)],
    'point': point,
  }


class Page(html.parser.HTMLParser):
  """Elements of a page, with attributes, and the text of those that hold data."""

  def __init__(self, path: pathlib.Path):
    super().__init__()
    self.elements: list[tuple[str, dict[str, str | None]]] = []
    self.texts: dict[str, list[str]] = {}
    self._open = ''
    self.feed(path.read_text())
    self.close()

  def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
    self.elements.append((tag, dict(attrs)))
    self._open = tag

  def handle_endtag(self, tag: str) -> None:
    self._open = ''

  def handle_data(self, data: str) -> None:
    self.texts.setdefault(self._open, []).append(data)

  def attributes(self, name: str) -> list[str]:
    return [value for _, found in self.elements if (value := found.get(name)) is not None]

  def data(self) -> dict[str, Any]:
    return json.loads(next(text for text in self.texts['script'] if text.startswith('{')))


@pytest.fixture(scope='module')
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, dict[str, Any]]:
  arguments = problem((2, 4, 8))
  return page_lib.write(tmp_path_factory.mktemp('a run') / 'report', **arguments), arguments


def outcome_shown(point: OperatingPoint, examples: Examples) -> dict[str, str]:
  left = point.predict(examples.logits)
  bits = np.array(point.bits)[left.exits]
  return {
    'accuracy': f'{100 * np.mean(left.labels == examples.labels):.2f} %',
    'bits': f'{bits.mean():.3f}',
    'cost': f'{(bits / point.bits[0]).mean():.3f}',
  }


def shares_shown(point: OperatingPoint, examples: Examples) -> list[str]:
  left = point.predict(examples.logits)
  return [f'{100 * np.mean(left.exits == k):.2f} %' for k in range(len(point.bits))]


def test_page_needs_nothing_else(made):
  path, _ = made
  page, text = Page(path), path.read_text()
  for name in ('src', 'href', 'xlink:href', 'srcset', 'action', 'poster'):
    for value in page.attributes(name):
      assert value.startswith(('data:', '#')), value
  assert not {'iframe', 'object', 'embed'} & {tag for tag, _ in page.elements}
  assert not re.search(r'https?:|@import|//\w+\.', text)
  assert all(target.startswith('#') for target in re.findall(r'url\(([^)]*)\)', text))


def test_names_are_unique_and_all_references_lead_somewhere(made):
  path, _ = made
  page = Page(path)
  names = page.attributes('id')
  assert len(names) == len(set(names))
  referred = [
    ref[1:] for ref in page.attributes('xlink:href') + page.attributes('href') if ref[0] == '#'
  ]
  referred += page.attributes('for') + page.attributes('aria-labelledby')
  referred += re.findall(r'url\(#([^)]*)\)', path.read_text())
  assert set(referred) <= set(names)


def test_controls_have_labels_and_images_texts(made):
  path, _ = made
  elements = Page(path).elements
  assert dict(elements)['html'] == {'lang': 'en'}
  labels = {found['for'] for tag, found in elements if tag == 'label'}
  assert {found['id'] for tag, found in elements if tag in ('input', 'select')} == labels
  assert all(found['alt'] for tag, found in elements if tag == 'img')
  assert all(found['aria-label'] for _, found in elements if found.get('role') == 'img')


def test_every_plot_is_on_the_page_and_beside_it(made):
  path, _ = made
  page = Page(path)
  assert len([tag for tag, _ in page.elements if tag == 'svg']) == len(PLOTS)
  assert sum(found.get('role') == 'img' for _, found in page.elements) == len(PLOTS)
  assert {f'curve-{order}' for order in curve.ORDERS} <= set(page.attributes('id'))
  for name in PLOTS:
    with Image.open(path.parent / f'{name}.png') as image:
      image.load()
      assert image.format == 'PNG'
      assert image.width > 600
      assert len(image.convert('RGB').getcolors(2**24) or ()) > 3


def test_the_same_input_gives_the_same_files(made, tmp_path: pathlib.Path):
  path, arguments = made
  page_lib.write(tmp_path, **arguments)
  for first in path.parent.iterdir():
    assert (tmp_path / first.name).read_bytes() == first.read_bytes()


def test_hostile_names_stay_text(made):
  path, arguments = made
  page = Page(path)
  assert page.texts['title'] == [arguments['title']]
  assert not page.attributes('onerror')
  assert [tag for tag, _ in page.elements].count('script') == 2
  shown = {text.strip(' \n\u2713\u2717') for text in page.texts['span']}
  assert set(HOSTILE) <= shown
  assert 'the first <half>' in ''.join(page.texts['p'])


def test_hostile_text_in_an_operating_point_does_not_end_the_data(tmp_path: pathlib.Path):
  arguments = problem((2, 4), examples=20)
  point = arguments['point']
  data = point.data.model_copy(update={'dataset': '</script><b>&amp;'})
  arguments['point'] = point.model_copy(update={'data': data})
  page = Page(page_lib.write(tmp_path, **arguments))
  files = [
    operating_point.from_json(each['file'])
    for of_order in page.data().values()
    for each in of_order['points']
  ]
  assert {file.data.dataset for file in files if file.data} == {'</script><b>&amp;'}
  assert 'b' not in {tag for tag, _ in page.elements}


@pytest.mark.parametrize('order', curve.ORDERS)
def test_every_point_is_what_an_independent_computation_says(made, order):
  path, arguments = made
  current, of_order = arguments['point'], Page(path).data()[order]
  rerun = curve.rerun_curve(
    arguments['calibration'].logits, arguments['calibration'].labels, current.bits, order,
    tuple(current.weights.values()),
  )  # fmt: skip
  points = [operating_point.from_json(each['file']) for each in of_order['points']]
  costs = [point.expected.relative_cost for point in points if point.expected]
  assert costs == sorted(set(costs))
  assert costs[0] == 1
  assert costs[-1] == current.bits[-1] / current.bits[0]
  assert 100 < len(points) <= page_lib.POINTS + 1
  # Evenly: no gap much wider than it would be if all states could be chosen.
  assert max(np.diff(costs)) < 3 * (costs[-1] - costs[0]) / page_lib.POINTS
  by_cost = dict(zip(rerun.cost[rerun.points], rerun.points, strict=True))
  for index, (point, entry) in enumerate(zip(points, of_order['points'], strict=True)):
    expected, reported = (
      calibration.outcome(point, arguments[name]) for name in ('calibration', 'reported')
    )
    assert (point.expected, point.reported) == (expected, reported)
    assert point.to_json() == entry['file']
    for name in ('combine', 'weights', 'temperatures', 'data', 'bits'):
      assert getattr(point, name) == getattr(current, name)
    assert point.order == order
    if index == of_order['current']:
      assert point == current
    else:
      assert point.target == Target(kind='key', value=point.key)
      assert point.met
      state = int(by_cost[expected.relative_cost])
      assert tuple(point.thresholds.values()) == rerun.thresholds(state)
      assert expected.accuracy == rerun.accuracy[state]
    shown = outcome_shown(point, arguments['calibration'])
    others = outcome_shown(point, arguments['reported'])
    assert entry['shown'] == shown | {f'reported-{name}': text for name, text in others.items()}
    columns = list(zip(*entry['precisions'], strict=True))
    assert columns[1] == tuple(shares_shown(point, arguments['calibration']))
    assert columns[2] == tuple(shares_shown(point, arguments['reported']))
  assert (of_order['current'] is None) == (order != current.order)


def test_markers_are_on_their_curve(made):
  """Positions are an affine function of (cost, accuracy), the same for all orders, and inside."""
  path, _ = made
  page = Page(path)
  box = next(found['viewbox'] for tag, found in page.elements if tag == 'svg') or ''
  *_, width, height = map(float, box.split())
  entries = [entry for of_order in page.data().values() for entry in of_order['points']]
  at = np.array([entry['at'] for entry in entries])
  assert (at > 0).all()
  assert (at < [width, height]).all()
  outcomes = [operating_point.from_json(entry['file']).expected for entry in entries]
  values = np.array([(each.relative_cost, each.accuracy) for each in outcomes if each])
  for axis, sign in ((0, 1), (1, -1)):
    slope, offset = np.polyfit(values[:, axis], at[:, axis], 1)
    assert sign * slope > 0
    np.testing.assert_allclose(slope * values[:, axis] + offset, at[:, axis], atol=0.02)


def test_a_point_by_hand_is_offered_as_it_is(tmp_path: pathlib.Path):
  arguments = problem((2, 4, 8), examples=50)
  chosen = arguments['point']
  arguments['point'] = chosen.model_copy(
    update={'thresholds': {2: 0.7, 4: 0.0, 8: 0.0}, 'reported': None, 'data': None, 'target': None}
  )
  of_order = Page(page_lib.write(tmp_path, **arguments)).data()[chosen.order]
  current = operating_point.from_json(of_order['points'][of_order['current']]['file'])
  assert current.thresholds == {2: 0.7, 4: 0.0, 8: 0.0}
  assert current.reported == calibration.outcome(current, arguments['reported'])
  assert current.data is None


def test_a_promise_is_shown_beside_what_is_hoped_for(tmp_path: pathlib.Path):
  arguments = problem((2, 4, 8), examples=1000)
  first, second = arguments['calibration'], arguments['reported']

  def chosen(confidence: float | None, drop: float = 0.05) -> OperatingPoint:
    settings = calibration.Settings(
      Target(kind='max_accuracy_drop', value=drop), combine='last', confidence=confidence
    )
    return calibration.choose(first, second, (2, 4, 8), settings, dataset='made-up', step=20)[0]

  def text(point: OperatingPoint) -> str:
    return page_lib.write(tmp_path, **{**arguments, 'point': point}).read_text()

  hoped, promised = chosen(None), chosen(0.9)
  assert promised.met
  assert promised.promise
  page = text(promised)
  _, _, table = page.partition('<table id="promised">')
  figures = re.findall(r'<td>([^<]+)</td>', table.partition('</table>')[0])
  for point, shown in ((promised, figures[:3]), (hoped, figures[3:])):
    assert point.reported
    accuracy, bits, cost = shown
    assert accuracy == f'{100 * point.reported.accuracy:.2f} %'
    # Of the same combination; its weights were fitted on fewer examples.
    assert bits == f'{point.reported.average_bits:.3f}'
    assert cost == f'{point.reported.relative_cost:.3f}'
  assert f'{100 * promised.promise.bound:.2f} points' in page
  assert 'With a confidence of 90.00 %, new data lose at most' in ' '.join(page.split())
  unmet = chosen(0.9, drop=0.0005)
  assert unmet.promise
  assert unmet.promise.examples_needed
  assert f'about {unmet.promise.examples_needed} calibration examples' in ' '.join(
    text(unmet).split()
  )


def test_accuracies_on_a_half_are_beside_those_on_the_whole_set(tmp_path: pathlib.Path):
  arguments = problem((2, 4, 8))
  first, second = arguments['calibration'], arguments['reported']
  whole = Examples(
    np.concatenate([first.logits, second.logits], axis=1),
    np.concatenate([first.labels, second.labels]),
    'both',
  )
  assert 'Static, all' not in page_lib.write(tmp_path, **arguments).read_text()
  page = page_lib.write(tmp_path, **arguments, whole=whole).read_text()
  static = [f'{100 * (each.argmax(-1) == whole.labels).mean():.2f} %' for each in whole.logits]
  assert 'Static, all 800' in page
  for text in static:
    assert f'<td>{text}</td>' in page
  assert f'(on all 800: {static[-1]})' in page
  assert 'id="promised"' not in page


def test_images_of_those_that_leave_first_and_last(made):
  path, arguments = made
  point, reported = arguments['point'], arguments['reported']
  left = point.predict(reported.logits)
  confidence = np.exp(reported.logits.astype(float))
  confidence = (confidence / confidence.sum(axis=-1, keepdims=True)).max(axis=-1)
  first = sorted(np.flatnonzero(left.exits == 0), key=lambda i: -confidence[0, i])[:12]
  last = sorted(np.flatnonzero(left.exits == 2), key=lambda i: confidence[2, i])[:12]
  assert len(first) == 12
  assert last
  page = Page(path)
  images = [found for tag, found in page.elements if tag == 'img']
  for index, found in zip([*first, *last], images, strict=True):
    png = base64.b64decode((found['src'] or '').removeprefix('data:image/png;base64,'))
    np.testing.assert_array_equal(Image.open(io.BytesIO(png)), arguments['images'][index])
    names = [
      arguments['class_names'][label] for label in (reported.labels[index], left.labels[index])
    ]
    assert found['alt'] == f'{names[0]}, predicted {names[1]}'
  text = ''.join(page.texts['span'])
  assert f'{100 * confidence[0, first[0]]:.2f} %' in text
  assert f'{100 * confidence[2, last[0]]:.2f} %' in text


def test_images_where_no_input_leaves_at_an_end(tmp_path: pathlib.Path):
  arguments = problem((2, 4, 8, 16), examples=30)
  thresholds = {2: curve.NEVER, 4: 0.5, 8: 0.0, 16: 0.0}
  arguments['point'] = arguments['point'].model_copy(update={'thresholds': thresholds})
  text = ''.join(Page(page_lib.write(tmp_path, **arguments)).texts['h3'])
  assert 'the most confident at 4 bits' in text
  assert 'the least confident at 8 bits' in text


@pytest.mark.parametrize(
  ('bits', 'examples', 'classes'), [((2,), 30, 3), ((2, 4), 5, 1), ((1, 2, 16), 1, 2)]
)
def test_small_problems(tmp_path: pathlib.Path, bits, examples, classes):
  arguments = problem(bits, examples, classes)
  arguments['images'] = arguments['images'][..., :1]
  data = Page(page_lib.write(tmp_path, **{**arguments, 'rows': []})).data()
  assert list(data) == sorted(curve.ORDERS)
  assert all(of_order['points'] for of_order in data.values())


def test_equal_confidences_everywhere(tmp_path: pathlib.Path):
  arguments = problem((2, 4, 8), examples=40)
  for name in ('calibration', 'reported'):
    examples = arguments[name]
    arguments[name] = Examples(np.zeros_like(examples.logits), examples.labels, examples.name)
  data = Page(page_lib.write(tmp_path, **arguments)).data()
  # Thresholds tell nothing apart: all inputs are at one precision, or at another.
  assert [len(data[order]['points']) for order in curve.ORDERS[:2]] == [3, 2]


def test_rows_that_are_not_finite_or_not_there(tmp_path: pathlib.Path):
  arguments = problem((2, 4), examples=20)
  rows = [
    {'step': 1, 'kind': 'train', 'epoch': 0.1, 'loss': {'2': None, '4': float('nan')}, 'top1': {}},
    {'step': 2, 'kind': 'train', 'epoch': 0.2, 'loss': {2: 1.0, 4: 2.0}},
  ]
  page_lib.write(tmp_path, **{**arguments, 'rows': rows})


@pytest.mark.parametrize(
  ('changed', 'says'),
  [
    ({'images': np.zeros((400, 5, 4, 3))}, 'images are float64'),
    ({'images': np.zeros((400, 5, 4, 2), np.uint8)}, '1 or 3 channels'),
    ({'images': np.zeros((399, 5, 4, 3), np.uint8)}, '399 images: there are 400'),
    ({'class_names': ['one']}, '1 class names: logits have 3 classes'),
    ({'reported': Examples(np.zeros((2, 400, 3)), np.zeros(400, int), '')}, 'logits of shape'),
  ],
)
def test_bad_input_is_answered(made, tmp_path: pathlib.Path, changed, says):
  _, arguments = made
  with pytest.raises(ValueError, match=says):
    page_lib.write(tmp_path, **{**arguments, **changed})
  assert not list(tmp_path.iterdir())


@pytest.fixture(scope='module')
def browser() -> Iterator[webdriver.Chrome]:
  commands = [shutil.which(name) for name in ('chromium', 'chromedriver')]
  if not all(commands):
    (pytest.fail if os.environ.get('CI') else pytest.skip)(
      'chromium or chromedriver is not on PATH'
    )
  options = webdriver.ChromeOptions()
  options.binary_location = commands[0] or ''
  # Containers run it as root and have little shared memory.
  for flag in ('--headless=new', '--no-sandbox', '--disable-dev-shm-usage'):
    options.add_argument(flag)
  options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
  with pytest.MonkeyPatch.context() as patch:
    # The driver is on this machine: a proxy for others is not for it.
    patch.setenv('no_proxy', 'localhost')
    driver = webdriver.Chrome(options=options, service=Service(commands[1]))
    try:
      yield driver
    finally:
      driver.quit()


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
