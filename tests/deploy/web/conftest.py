"""A page of the bundled CIFAR-10 network, and a server that can hold files back or damage them."""

from collections.abc import Iterator
import functools
import http.server
import json
import pathlib
import threading
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
import pytest
from selenium import webdriver

from dpoq_jax import classifier
from dpoq_jax.deploy.onnx import decision, export, graph_network
from dpoq_jax.deploy.onnx import source as source_lib
from dpoq_jax.deploy.web import folder, runtime
from tests import browser, npm
from tests.conftest import once
from tests.deploy.onnx.conftest import images

HOSTILE = '<img src=x onerror="boom = 1">'


class Site(NamedTuple):
  """Holds a page, and the ONNX export that it was made of.

  Attributes:
    folder: folder of the page.
    exported: folder of the export.
    points: the operating points on its slider.
  """

  folder: pathlib.Path
  exported: pathlib.Path
  points: list[dict[str, Any]]

  @property
  def network(self) -> graph_network.Network:
    return graph_network.Network(self.exported)


def points_for(network: graph_network.Network, seen: np.ndarray) -> list[dict[str, Any]]:
  """Operating points from all leave to none leaves; between them half and most do."""
  bits = [str(b) for b in network.bits]
  point = {
    'bits': list(network.bits),
    'weights': {b: [1.0 + k for k in range(count)] for count, b in enumerate(bits, start=1)},
    'temperatures': {b: 0.8 + 0.3 * k for k, b in enumerate(bits)},
    'thresholds': dict.fromkeys(bits, 2.0),
  }
  feeds, confidence = {'images': seen}, []
  for graph, b in zip(network.manifest['paths'], bits, strict=True):
    outputs = network.run_graph(graph, feeds)
    feeds |= outputs
    own = decision.probabilities(outputs['logits'], point['temperatures'][b])
    confidence.append(own.max(axis=-1))
  shares = (0.0, 0.3, 0.6)
  thresholds = [
    dict.fromkeys(bits, 0.0),
    *(
      {b: float(np.quantile(c, share)) for b, c in zip(bits, confidence, strict=True)}
      for share in shares[1:]
    ),
    dict.fromkeys(bits, 2.0),
  ]
  return [{**point, 'thresholds': each} for each in thresholds]


def write_site(path: pathlib.Path, ranges: np.ndarray, seen: np.ndarray, source: pathlib.Path):
  """Writes the export and the page of the bundled network; one of its classes has a bad name."""
  opened = classifier.load_pretrained('cifar10_resnet8')
  names = [*opened.class_names[:-1], HOSTILE]
  prepared = source_lib.prepare(opened.network, opened.variables, ranges)
  export.write(path / 'exported', prepared, class_names=names)
  points = points_for(graph_network.Network(path / 'exported'), seen)
  examples = folder.Examples(list(seen[:6]), np.arange(6), 'Made up.')
  folder.write(
    path / 'page', path / 'exported', runtime.read(source), title='A <b>page</b>', points=points,
    current=1, examples=examples,
  )  # fmt: skip
  (path / 'points.json').write_text(json.dumps(points))


def read_site(path: pathlib.Path) -> Site:
  points = json.loads((path / 'points.json').read_text())
  return Site(path / 'page', path / 'exported', points)


@pytest.fixture(scope='session')
def runtime_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  return npm.runtime_folder(tmp_path_factory)


@pytest.fixture(scope='session')
def site(tmp_path_factory: pytest.TempPathFactory, runtime_folder: pathlib.Path) -> Site:
  """The page, with ranges measured on generated images."""
  ranges, seen = images(64, (32, 32, 3)), images(64, (32, 32, 3), seed=1)
  return read_site(
    once(tmp_path_factory, 'web_page', lambda path: write_site(path, ranges, seen, runtime_folder))
  )


class Server:
  """Serves a folder.

  Attributes:
    requested: names of files, as they were asked for.
    sent: bytes of each file that were sent.
    changed: what is sent in place of a file; None says that it is not there.
    held: files that wait until their event is set.
  """

  def __init__(self, path: pathlib.Path) -> None:
    self.requested: list[str] = []
    self.sent: dict[str, int] = {}
    self.changed: dict[str, bytes | None] = {}
    self.held: dict[str, threading.Event] = {}
    handler = functools.partial(_Handler, self, directory=str(path))
    self.server = http.server.ThreadingHTTPServer(('localhost', 0), handler)
    self.port: int = self.server.server_address[1]
    threading.Thread(target=self.server.serve_forever, daemon=True).start()

  @property
  def address(self) -> str:
    return f'http://localhost:{self.port}'

  def stop(self) -> None:
    for event in self.held.values():
      event.set()
    self.server.shutdown()
    self.server.server_close()


class _Handler(http.server.SimpleHTTPRequestHandler):
  """Serves files as its server says."""

  def __init__(self, control: Server, *arguments: Any, **named: Any) -> None:
    self.control = control
    super().__init__(*arguments, **named)

  def do_GET(self) -> None:
    name = self.path.lstrip('/')
    self.control.requested.append(name)
    if name in self.control.held:
      self.control.held[name].wait(60)
    file = pathlib.Path(self.directory) / name
    content = file.read_bytes() if file.is_file() else b''
    if name in self.control.changed:
      changed = self.control.changed[name]
      if changed is None:
        self.send_error(404)
        return
      self.send_response(200)
      self.send_header('Content-Length', str(len(changed)))
      self.end_headers()
      self.wfile.write(changed)
      content = changed
    else:
      super().do_GET()
    self.control.sent[name] = len(content)

  def log_message(self, format: str, *args: object) -> None:
    del format, args


@pytest.fixture
def server(site: Site) -> Iterator[Server]:
  running = Server(site.folder)
  try:
    yield running
  finally:
    running.stop()


@pytest.fixture
def photo(tmp_path: pathlib.Path) -> pathlib.Path:
  """A picture that has to be resized."""
  path = tmp_path / 'photo.png'
  Image.fromarray(images(1, (152, 152, 3), seed=5)[0][:, :120]).save(path)
  return path


def in_page(driver: webdriver.Chrome, code: str, *arguments: Any) -> Any:
  """Runs the body of an asynchronous function in the page; returns its result."""
  script = (
    'const done = arguments[arguments.length - 1], given = [...arguments];'
    f'(async () => {{ {code} }})().then(done, (error) => done({{error: error.stack}}));'
  )
  result = driver.execute_async_script(script, *arguments)
  assert not isinstance(result, dict) or 'error' not in result, result
  return result


@pytest.fixture(scope='module')
def driver() -> Iterator[webdriver.Chrome]:
  """A browser with a camera, and a second name for this machine."""
  flags = ('--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream')
  hosts = ('--host-resolver-rules=MAP page.test 127.0.0.1', '--no-proxy-server')
  with browser.opened(*flags, *hosts) as opened:
    opened.set_script_timeout(600)
    opened.execute_cdp_cmd('Network.enable', {})
    opened.execute_cdp_cmd('Network.setCacheDisabled', {'cacheDisabled': True})
    yield opened
