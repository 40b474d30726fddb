"""Chromium without a window, for the tests of pages."""

from collections.abc import Iterator
import contextlib
import os
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service


@contextlib.contextmanager
def opened(*flags: str) -> Iterator[webdriver.Chrome]:
  """A browser that logs what its console and its network say; skips where there is none.

  Args:
    *flags: further flags of Chromium.
  """
  commands = [shutil.which(name) for name in ('chromium', 'chromedriver')]
  if not all(commands):
    (pytest.fail if os.environ.get('CI') else pytest.skip)(
      'chromium or chromedriver is not on PATH'
    )
  options = webdriver.ChromeOptions()
  options.binary_location = commands[0] or ''
  # Containers run it as root and have little shared memory.
  for flag in ('--headless=new', '--no-sandbox', '--disable-dev-shm-usage', *flags):
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
