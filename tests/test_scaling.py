"""What `benchmarks.scaling` counts is what the step does, and docs/scaling.md what it prints."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from benchmarks import clusters, scaling
from tests.end_to_end import runs

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope='module')
def steps() -> tuple[scaling.Step, scaling.Step]:
  return scaling.steps()


@pytest.fixture(scope='module')
def compiled() -> dict:
  done = subprocess.run(
    [sys.executable, '-m', 'tests.all_reduces'],
    cwd=ROOT,
    env={
      **os.environ,
      'XLA_FLAGS': f'--xla_force_host_platform_device_count=2 {runs.COMPILED_FAST}',
    },
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


def test_bytes_are_those_of_the_compiled_step(compiled: dict):
  step = scaling.Step(**compiled['step'])
  assert compiled['devices'] == 2
  assert compiled['bytes'] == step.gradient_bytes + step.statistics_bytes


def test_messages_are_between_all_joined_and_none(compiled: dict):
  step = scaling.Step(**compiled['step'])
  # Gradients, losses and right answers may be joined with others, or not.
  assert step.joined_messages <= compiled['operations'] <= step.statistics_messages + 3


def test_arithmetic_is_that_of_the_step(compiled: dict):
  # XLA leaves out products with padding, and counts what is not a convolution.
  assert scaling.Step(**compiled['step']).flops == pytest.approx(compiled['flops'], rel=0.05)


def test_networks_are_the_published_ones(steps: tuple[scaling.Step, scaling.Step]):
  network, resnet50 = steps
  # Multiply-accumulates forward: 1.8 and 4.1 G; backward twice as many, less the stem's.
  assert network.flops / (network.paths * 6e9) == pytest.approx(1.8, rel=0.03)
  assert resnet50.flops / 6e9 == pytest.approx(4.1, rel=0.03)
  assert network.parameters / network.paths == pytest.approx(11.69e6, rel=0.01)
  # 20 layers with 4,800 channels in a path.
  assert (network.normalisations, network.statistics) == (4 * 20, 4 * 2 * 4800)


def test_page_holds_the_tables(steps: tuple[scaling.Step, scaling.Step]):
  page = (ROOT / 'docs/scaling.md').read_text()
  for name, table in scaling.tables(*steps).items():
    assert table in page, f'docs/scaling.md does not hold the table {name}: {table}'


def test_ring_sends_almost_twice_what_is_reduced():
  cluster = clusters.CLUSTERS[0]
  assert cluster.devices == 8
  assert cluster.sent(800) == 1400
  assert cluster.seconds(0, messages=3) == 3 * cluster.latency
  assert cluster.seconds(int(cluster.bandwidth)) == pytest.approx(1.75 + cluster.latency)


def test_efficiency_counts_what_is_waited_for():
  estimate = scaling.Estimate(
    cluster=clusters.CLUSTERS[0],
    batch_size=10,
    arithmetic=3.0,
    gradients=2.5,
    statistics=1.5,
    joined_statistics=0.5,
  )
  # 2 of the 2.5 seconds pass during the backward pass.
  expected = {
    (False, False): 3 / 5.5,
    (False, True): 3 / 3.5,
    (True, False): 3 / 7,
    (True, True): 3 / 4,
  }
  for (whole, best), efficiency in expected.items():
    case = {'global_statistics': whole, 'best': best}
    assert estimate.efficiency(**case) == pytest.approx(efficiency)
    assert estimate.images_per_second(**case) == pytest.approx(80 / 3 * efficiency)
