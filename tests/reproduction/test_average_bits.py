import dataclasses
import pathlib

import numpy as np
import pytest

from dpoq_jax import config as config_lib
from dpoq_jax.config import recipe
from dpoq_jax.inference import combination, curve
from dpoq_jax.inference.calibration import Examples
from dpoq_jax.reproduction import average_bits, charts, figures, results
from dpoq_jax.reproduction.cells import SCALES
from tests.inference import problems

PAPER, RECIPE = average_bits.NETWORKS
PART = 'a network, some data'


def made_up(name: str, seed: int) -> average_bits.Network:
  calibration, reported = problems.examples(400, seed), problems.examples(600, seed + 1)
  return average_bits.Network(name, problems.BITS, calibration, reported, 'made up', 7)


def by_hand() -> average_bits.Network:
  """1000 examples of two classes: 600 need 2 bits, 390 need 4 and 10 need 8."""
  count, fine = 1000, np.linspace(0, 0.01, 1000)
  # Confidence of the precision, and whether it is right.
  confident, unsure = 0.98 + fine, 0.6 + fine
  needs = np.repeat([2, 4, 8], [600, 390, 10])
  probability_of_label = np.stack(
    [np.where(needs <= b, confident, 1 - unsure - 0.05 * (b == 4)) for b in problems.BITS]
  )
  logits = np.stack([np.log(probability_of_label), np.log(1 - probability_of_label)], axis=-1)
  examples = Examples(logits, np.zeros(count, int), 'made by hand')
  return average_bits.Network(RECIPE, problems.BITS, examples, examples, 'made up', 7)


def test_bits_near_the_highest_accuracy_are_those_of_a_problem_made_by_hand():
  points = average_bits.near_highest(by_hand())
  found = {
    name: (point.reported.accuracy, point.reported.average_bits)
    for name, point in points.items()
    if point.reported
  }
  whole = (600 * 2 + 390 * 4 + 10 * 8) / 1000
  assert found == {
    'highest': (1.0, whole),
    # An example, or five, stay at 4 bits.
    'within 0.1': (0.999, pytest.approx(whole - 4 / 1000)),
    'within 0.5': (0.995, pytest.approx(whole - 5 * 4 / 1000)),
  }


def test_points_are_chosen_on_one_half_and_reported_on_the_other():
  network = made_up(RECIPE, seed=3)
  points = average_bits.near_highest(network)
  examples = network.calibration
  curves = [
    curve.rerun_curve(examples.logits, examples.labels, network.bits, 'normalised', combine)
    for combine in combination.COMBINATIONS
  ]
  highest = max(rerun.accuracy[rerun.points].max() for rerun in curves)
  assert highest >= (examples.logits[-1].argmax(-1) == examples.labels).mean()
  for (name, point), drop in zip(points.items(), (0, *average_bits.DROPS), strict=True):
    assert point.expected
    assert point.reported
    assert point.expected.accuracy >= highest - drop
    good = [rerun.reachable & (rerun.accuracy >= highest - drop - 1e-9) for rerun in curves]
    least = min(c.average_bits[g].min() for c, g in zip(curves, good, strict=True) if g.any())
    assert point.expected.average_bits == least, name
    left = point.predict(network.reported.logits)
    assert point.reported.accuracy == (left.labels == network.reported.labels).mean()
    assert point.reported.average_bits == np.take(network.bits, left.exits).mean()
  # What the other half holds changes no choice.
  other = dataclasses.replace(network, reported=problems.examples(50, seed=9))
  for one, another in zip(points.values(), average_bits.near_highest(other).values(), strict=True):
    assert one.thresholds == another.thresholds


def test_the_page_has_both_networks_or_says_which_is_missing(tmp_path: pathlib.Path):
  networks = [made_up(PAPER, seed=3), made_up(RECIPE, seed=5)]
  points = [average_bits.near_highest(network) for network in networks]
  measured = list(average_bits.entries(PART, networks, points))
  page = results.write(tmp_path, average_bits.FIGURE, measured).read_text()
  assert 'Missing' not in page
  for name in average_bits.NETWORKS:
    assert f'### {PART}: {name}\n' in page
  static = (networks[1].reported.logits[1].argmax(-1) == networks[1].reported.labels).mean()
  assert f'| {RECIPE}: static, 4 bits | {100 * static:.2f} | 4.00 |' in page
  near = points[0]['within 0.1'].reported
  assert near
  line = f'{100 * near.accuracy:.2f} | {near.average_bits:.2f} |'
  assert f'| {PAPER}: dynamic, within 0.1 | {line}' in page
  assert page.count('| dynamic, weighted | ') == 2
  assert charts.average_bits(networks, points).png.startswith(b'\x89PNG')

  alone = list(average_bits.entries(PART, networks[:1], points[:1]))
  page = results.write(tmp_path, average_bits.FIGURE, alone).read_text()
  assert f'Missing: {RECIPE}.' in page
  assert f'### {PART}: {RECIPE}' not in page
  assert f'missing: {RECIPE}' in charts.average_bits(networks[:1], points[:1]).svg
  # The record alone has all that the page says.
  results.write(tmp_path, 'table1', [])
  assert (tmp_path / 'TABLE.md').read_text() == page


def test_limits_are_kept_on_the_half_they_are_chosen_on():
  network = made_up(PAPER, seed=3)
  highest = average_bits.near_highest(network)['highest']
  bits, _ = zip(*network.curve(highest), strict=True)
  assert list(bits) == sorted(bits)
  assert bits[0] == 2
  assert bits[-1] <= 8


def test_figure_5_is_of_the_largest_network_of_a_scale():
  wanted, part = figures.runs_of('figure5', SCALES['long'])
  assert part.startswith('ResNet-20')
  assert [run.expected_config().model.depth for run in wanted.values()] == [20, 20]


@pytest.mark.parametrize('scale', ['smoke', 'cpu', 'paper'])
def test_the_networks_of_figure_5_differ_by_the_recipe(scale: str):
  wanted, part = figures.runs_of('figure5', SCALES[scale])
  assert tuple(wanted) == average_bits.NETWORKS
  assert {run.seed for run in wanted.values()} == {0}
  paper, plus = (run.expected_config() for run in wanted.values())
  changed = {line.split(':')[0] for line in config_lib.differences(paper, plus, apart=set())}
  assert changed <= set(recipe.settings(paper))
  assert changed
  assert 'ResNet' in part
  if scale == 'cpu':
    assert wanted[RECIPE].config == 'cifar10_resnet8_cpu_plus'
    assert wanted[RECIPE].variant == 'system=scaled,merge=psbn,bits=2-4-8'
  # At small scales the onion of the paper is that of Table 1.
  table_1, _ = figures.runs_of('figure3', SCALES[scale])
  assert len(table_1) == 1
  assert (wanted[PAPER] in table_1.values()) == (scale != 'paper')
