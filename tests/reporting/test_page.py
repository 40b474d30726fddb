import base64
import io
import pathlib
import re

import numpy as np
from PIL import Image
import pytest

from dpoq_jax.inference import calibration, curve, operating_point
from dpoq_jax.inference.calibration import Examples
from dpoq_jax.inference.combination import Combination
from dpoq_jax.inference.operating_point import OperatingPoint, Target
from dpoq_jax.reporting import page as page_lib
from tests.reporting.made_up import HOSTILE, PLOTS, Page, outcome_shown, problem, shares_shown


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

  def chosen(
    confidence: float | None, drop: float = 0.05, combine: Combination = 'last'
  ) -> OperatingPoint:
    settings = calibration.Settings(
      Target(kind='max_accuracy_drop', value=drop), combine=combine, confidence=confidence
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
  assert 'hoped for meets the target on the calibration examples' in ' '.join(page.split())
  unmet = chosen(0.9, drop=0.0005)
  assert unmet.promise
  assert unmet.promise.examples_needed
  assert f'about {unmet.promise.examples_needed} calibration examples' in ' '.join(
    text(unmet).split()
  )
  # The lowest precision is always wrong and sure of it, and predicts with the others.
  logits = first.logits.copy()
  logits[0] = np.eye(3)[(first.labels + 1) % 3] * 99
  arguments['calibration'] = first = Examples(logits, first.labels, first.name)
  hopeless = ' '.join(text(chosen(0.9, combine='mean')).split())
  assert 'hoped for is the nearest: on the calibration examples no point meets' in hopeless


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


@pytest.mark.parametrize('fitted', [False, True])
def test_temperatures_are_spoken_of_where_they_were_fitted(made, tmp_path: pathlib.Path, fitted):
  _, given = made
  point = given['point']
  temperatures = dict.fromkeys(point.bits, 1.5 if fitted else 1.0)
  point = point.model_copy(update={'temperatures': temperatures})
  text = page_lib.write(tmp_path, **{**given, 'point': point}).read_text()
  # What a reader downloads has them in any case.
  shown = re.sub(r'<script.*?</script>', '', text, flags=re.DOTALL)
  assert ('emperature' in shown) is fitted
