"""The page in a browser: rings as they arrive, exits, files that are broken, no network."""

from collections.abc import Callable
import json
import pathlib
import re
import threading
import time
from typing import Any

import numpy as np
from PIL import Image
import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from dpoq_jax.deploy.onnx import image_files
from tests.deploy.web.conftest import HOSTILE, Server, Site, in_page

MOST_BYTES = 100_000


def text(driver: webdriver.Chrome, name: str) -> str:
  return driver.find_element(By.ID, name).text


def wait_for(condition: Callable[[], Any], what: str) -> None:
  deadline = time.monotonic() + 60
  while True:
    try:
      if condition():
        return
    except StaleElementReferenceException:  # Drawn anew meanwhile.
      pass
    assert time.monotonic() < deadline, what
    time.sleep(0.02)


def wait_for_text(driver: webdriver.Chrome, name: str, part: str) -> None:
  wait_for(lambda: part in text(driver, name), f'no {part!r} in #{name}: {text(driver, name)!r}')


def errors(driver: webdriver.Chrome) -> list[Any]:
  return driver.get_log('browser')


def urls(driver: webdriver.Chrome) -> list[str]:
  """What was requested since the last call, in order."""
  events = [json.loads(entry['message'])['message'] for entry in driver.get_log('performance')]
  return [
    event['params']['request']['url']
    for event in events
    if event['method'] == 'Network.requestWillBeSent'
  ]


@pytest.fixture
def opened(driver: webdriver.Chrome, server: Server) -> webdriver.Chrome:
  """The browser on the page once all is loaded."""
  errors(driver)
  urls(driver)
  driver.get(server.address)
  wait_for_text(driver, 'status', 'All rings are here')
  wait_for_text(driver, 'tally', 'Of 6 images')
  return driver


def slide(driver: webdriver.Chrome, index: int) -> None:
  script = 'arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event("input"));'
  driver.execute_script(script, driver.find_element(By.ID, 'point'), index)


def test_rings_make_the_running_page_better(driver: webdriver.Chrome, server: Server, site: Site):
  server.held = {f'path_{b}.gzip': threading.Event() for b in (4, 8)}
  driver.get(server.address)
  wait_for_text(driver, 'answer', 'left at 2 bits')
  rings = {name: size for name, size in server.sent.items() if name.startswith('path_')}
  assert set(rings) == {'path_2.gzip'}
  assert 0 < sum(rings.values()) <= MOST_BYTES
  assert 'path_8.gzip' not in server.requested
  # At this point no image leaves before the last precision that is here.
  slide(driver, len(site.points) - 1)
  wait_for(lambda: 'waits for more' in items(driver)[0].text, 'it does not wait')
  first_run = re.findall(r'ran in [\d.]+ ms', text(driver, 'precisions'))
  assert len(first_run) == 1
  driver.execute_script('window.isTheSamePage = true')
  image = np.asarray(Image.open(site.folder / 'images' / '000.png'))[None]
  for b, following in ((4, 'path_8.gzip'), (8, None)):
    server.held[f'path_{b}.gzip'].set()
    wait_for_text(driver, 'answer', f'left at {b} bits')
    wanted = site.network.predict(image, point=site.points[-1], max_bits=b)
    assert text(driver, 'answer').startswith(shown_answer(site, wanted))
    assert following is None or following not in server.sent
    size = (site.folder / f'path_{b}.gzip').stat().st_size
    assert f'ring: {size:,} bytes in ' in text(driver, 'precisions')
  assert driver.execute_script('return window.isTheSamePage')
  # What was run before was not run again: its time is the same.
  assert first_run[0] in items(driver)[0].text
  assert errors(driver) == []


def shown_answer(site: Site, result: Any) -> str:
  """How the page shows what is predicted for one image, up to its time."""
  share = 100 * float(result.probabilities.max())
  name = site.network.manifest['class_names'][int(result.labels[0])]
  return f'{name}\n{share:.1f} %, left at {result.precisions[0]} bits after '


def test_slider_and_switch_decide_where_images_leave(opened: webdriver.Chrome, site: Site):
  network = site.network
  files = sorted((site.folder / 'images').iterdir())
  pixels = np.stack([np.asarray(Image.open(file)) for file in files])
  select, slider = Select(opened.find_element(By.ID, 'most')), opened.find_element(By.ID, 'point')
  slider.send_keys(Keys.HOME)
  seen: set[int] = set()
  for index, point in enumerate(site.points):
    assert int(slider.get_attribute('value') or '') == index
    for cap, bits in enumerate(network.bits):
      select.select_by_index(cap)
      wanted = network.predict(pixels[:1], point=point, max_bits=bits)
      wait_for_text(opened, 'answer', shown_answer(site, wanted))
      every = network.predict(pixels, point=point, max_bits=bits)
      marks = [f'{b} bits' for b in every.precisions]
      buttons = opened.find_elements(By.CSS_SELECTOR, '#thumbs button')
      wait_for(lambda: [b.text[2:] for b in buttons] == marks, f'exits are not {marks}')  # noqa: B023
      seen |= set(every.precisions.tolist())
      rows = [row.text.splitlines()[0:2] for row in items(opened)]
      left = network.bits.index(int(wanted.precisions[0]))
      assert [row[1] for row in rows] == [
        *['moved on'] * left,
        'left here',
        *['not needed'] * (cap - left),
        *['switched off'] * (len(network.bits) - 1 - cap),
      ]
    slider.send_keys(Keys.ARROW_RIGHT)
  assert seen == set(network.bits)
  opened.find_element(By.ID, 'back').click()
  assert int(slider.get_attribute('value') or '') == 1
  assert errors(opened) == []


def items(driver: webdriver.Chrome) -> list[Any]:
  return driver.find_elements(By.CSS_SELECTOR, '#precisions li')


def altered(content: bytes) -> bytes:
  middle = len(content) // 2
  return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    (altered, 'path_4.gzip is damaged'),
    (lambda content: content[:-9], 'path_4.gzip is damaged'),
    (lambda content: None, 'path_4.gzip could not be fetched (the server says 404)'),
  ],
  ids=['altered', 'cut', 'missing'],
)
def test_a_broken_ring_is_named_and_the_page_goes_on(
  driver: webdriver.Chrome, server: Server, site: Site, change: Callable[[bytes], Any], said: str
):
  server.changed['path_4.gzip'] = change((site.folder / 'path_4.gzip').read_bytes())
  driver.get(server.address)
  wait_for_text(driver, 'status', said)
  assert 'The network goes on at up to 2 bits.' in text(driver, 'status')
  assert 'path_8.gzip' not in server.requested
  assert 'needs the ring of 4 bits' in text(driver, 'precisions')
  slide(driver, len(site.points) - 1)
  for number in (2, 3):
    driver.find_element(By.ID, 'next').click()
    wait_for_text(driver, 'name', f'Test image {number}')
    wait_for_text(driver, 'answer', 'left at 2 bits')
  # Once the file is whole, the page goes on from where it stood.
  server.changed.clear()
  driver.find_element(By.ID, 'again').click()
  wait_for_text(driver, 'answer', 'left at 8 bits')
  assert server.requested.count('path_2.gzip') == 1
  # The browser itself notes what a server does not have.
  assert all('404' in entry['message'] for entry in errors(driver))


def test_without_its_first_ring_nothing_runs(driver: webdriver.Chrome, server: Server):
  server.changed['path_2.gzip'] = b'no ring'
  driver.get(server.address)
  wait_for_text(
    driver, 'status', 'path_2.gzip is damaged: it is not the file that was exported. No'
  )
  assert text(driver, 'answer') == 'None yet.'
  server.changed = {'runtime/onnxruntime.gzip': b'no runtime'}
  driver.get(server.address)
  wait_for_text(driver, 'status', 'runtime/onnxruntime.gzip is damaged')
  server.changed = {'network.json': b'no JSON'}
  driver.get(server.address)
  wait_for_text(driver, 'status', 'network.json cannot be read')
  errors(driver)


def test_it_needs_no_network_once_it_is_loaded(
  opened: webdriver.Chrome, server: Server, site: Site, photo: pathlib.Path
):
  loaded = urls(opened)
  assert all(url.startswith((server.address, 'data:', 'blob:')) for url in loaded), loaded
  server.stop()
  requested = len(server.requested)
  for _ in range(2):
    opened.find_element(By.ID, 'next').click()
  wait_for_text(opened, 'name', 'Test image 3')
  slide(opened, len(site.points) - 1)
  wait_for_text(opened, 'answer', 'left at 8 bits')
  opened.find_element(By.ID, 'file').send_keys(str(photo))
  wait_for_text(opened, 'name', 'photo.png')
  # The pixels are those that `predict` reads, so the probabilities are.
  (read,) = image_files.read([photo], (32, 32, 3), None)
  wanted = site.network.predict(read.pixels, point=site.points[-1])
  wait_for_text(opened, 'answer', shown_answer(site, wanted))
  later = urls(opened)
  assert all(url.startswith(('data:', 'blob:')) for url in later), later
  assert len(server.requested) == requested
  assert errors(opened) == []


def test_a_picture_can_be_dropped_anywhere(
  opened: webdriver.Chrome, server: Server, photo: pathlib.Path
):
  server.changed['photo.png'] = photo.read_bytes()
  code = """
    const transfer = new DataTransfer();
    transfer.items.add(new File([await (await fetch('/photo.png')).blob()], 'dropped.png'));
    for (const type of ['dragover', 'drop']) {
      const event = new DragEvent(type, {dataTransfer: transfer, bubbles: true, cancelable: true});
      document.querySelector('h1').dispatchEvent(event);
      if (!event.defaultPrevented) throw new Error(`${type}: the browser would open the file`);
    }
  """
  in_page(opened, code)
  wait_for_text(opened, 'name', 'dropped.png')
  assert not opened.find_elements(By.CSS_SELECTOR, '#thumbs [aria-pressed=true]')
  assert errors(opened) == []


def test_what_is_no_image_is_named(opened: webdriver.Chrome, tmp_path: pathlib.Path):
  path = tmp_path / 'letter.png'
  path.write_text('no picture')
  opened.find_element(By.ID, 'file').send_keys(str(path))
  wait_for_text(opened, 'status', 'letter.png: ')
  assert 'Test image 1' in text(opened, 'name')
  assert errors(opened) == []


def test_the_camera_is_answered_frame_by_frame(opened: webdriver.Chrome):
  button = opened.find_element(By.ID, 'camera')
  button.click()
  wait_for_text(opened, 'name', 'The camera')
  answer = opened.find_element(By.ID, 'answer')
  assert button.get_attribute('aria-pressed') == 'true'
  assert answer.get_attribute('aria-live') == 'off'
  opened.execute_script('window.before = document.querySelector("#answer strong")')
  changed = 'return document.querySelector("#answer strong") !== window.before'
  wait_for(lambda: opened.execute_script(changed), 'no further frame')
  opened.find_element(By.ID, 'next').click()
  wait_for_text(opened, 'name', 'Test image 1')
  assert button.get_attribute('aria-pressed') == 'false'
  assert answer.get_attribute('aria-live') == 'polite'
  assert errors(opened) == []


def test_it_works_where_browsers_have_no_digests(driver: webdriver.Chrome, server: Server):
  errors(driver)
  driver.get(f'http://page.test:{server.port}/')
  assert not driver.execute_script('return isSecureContext')
  wait_for_text(driver, 'status', 'All rings are here')
  driver.find_element(By.ID, 'camera').click()
  wait_for_text(driver, 'status', 'The camera needs https or localhost')
  assert errors(driver) == []
  server.changed['path_4.gzip'] = altered(b'no ring')
  driver.get(f'http://page.test:{server.port}/')
  wait_for_text(driver, 'status', 'path_4.gzip is damaged')
  errors(driver)


def test_it_runs_no_script_but_its_own(opened: webdriver.Chrome):
  names = [each.text for each in opened.find_elements(By.CSS_SELECTOR, '#classes li')]
  assert len(names) == 5
  assert opened.title == text(opened, 'title') == 'A <b>page</b>'
  opened.execute_script(
    'const script = document.createElement("script"); script.textContent = "boom = 1";'
    'document.body.append(script); document.body.insertAdjacentHTML("beforeend", arguments[0]);',
    HOSTILE,
  )
  wait_for(lambda: len(blocked := errors(opened)) and 'Content Security' in str(blocked), 'allowed')
  assert opened.execute_script('return typeof boom') == 'undefined'


def test_it_fits_any_width(opened: webdriver.Chrome, tmp_path: pathlib.Path):
  for width in (340, 375, 800, 1280):
    metrics = {'width': width, 'height': 900, 'deviceScaleFactor': 1, 'mobile': width < 600}
    opened.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', metrics)
    scroll = opened.execute_script('return document.documentElement.scrollWidth')
    assert opened.save_screenshot(str(tmp_path / f'{width}.png'))
    opened.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
    assert scroll <= width


def test_keys_and_readers_reach_everything(opened: webdriver.Chrome):
  found: dict[str, str] = {}
  opened.execute_script('document.activeElement.blur()')
  for _ in range(30):
    ActionChains(opened).send_keys(Keys.TAB).perform()
    focus = opened.switch_to.active_element
    if focus.tag_name == 'body':
      break
    name = focus.accessible_name
    found[focus.get_attribute('id') or name] = name
  assert {'previous', 'next', 'camera', 'file', 'point', 'most'} <= set(found)
  assert sum(key.startswith('Test image') for key in found) == 6
  assert all(found.values()), found
  slider = opened.find_element(By.ID, 'point')
  assert slider.get_attribute('aria-valuetext') == text(opened, 'worth')
  for name in ('answer', 'status'):
    role = opened.find_element(By.ID, name)
    assert (
      'polite' in (role.get_attribute('aria-live'), role.aria_role) or role.aria_role == 'status'
    )
  assert opened.find_element(By.ID, 'seen').accessible_name.startswith('Test image 1')
