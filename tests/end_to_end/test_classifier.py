"""Networks that are opened by one call: runs, artifacts, those that come with the library."""

import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dpoq_jax
from dpoq_jax import from_run, pretrained
from dpoq_jax.deploy.artifact import manifest as manifest_lib
from dpoq_jax.deploy.artifact.manifest import ArtifactError
from dpoq_jax.inference import operating_point
from dpoq_jax.inference.cascade import Cascade
from tests.end_to_end import runs

NAME = 'cifar10_resnet8'


@pytest.fixture(scope='module')
def images() -> np.ndarray:
  """Noise, which leaves at every precision."""
  return np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)


@pytest.fixture(scope='module')
def whole() -> dpoq_jax.Classifier:
  return dpoq_jax.load_pretrained(NAME)


@pytest.mark.parametrize('name', pretrained.names())
def test_networks_of_the_library_are_small_and_have_a_card(name: str):
  folder = pretrained.folder(name)
  assert sum(path.stat().st_size for path in folder.iterdir()) < 1_000_000
  classifier = dpoq_jax.load_pretrained(name)
  assert classifier.operating_point is not None
  assert classifier.operating_point.met
  card = (folder / 'README.md').read_text()
  for section in ('Data', 'Training', 'Accuracy', 'Limits', 'Licence'):
    assert f'## {section}' in card, section
  # The accuracies of the manifest, as they were measured when it was written.
  row = re.search(r'^\| alone \| (.*) \|$', card, re.MULTILINE)
  assert row
  assert [float(each) for each in row[1].split(' | ')] == [
    round(100 * classifier.top1[b], 2) for b in classifier.bits
  ]
  reported = classifier.operating_point.reported
  assert reported
  assert f'{100 * reported.accuracy:.2f} % at {reported.average_bits:.2f} bits' in card


def test_all_of_them_fit_into_a_wheel():
  folder = pathlib.Path(pretrained.__file__).parent
  assert sum(path.stat().st_size for path in folder.rglob('*') if path.is_file()) < 3_000_000


def test_it_labels_as_its_cascade_does(whole: dpoq_jax.Classifier, images: np.ndarray):
  assert whole.operating_point
  result = whole(images)
  direct = Cascade(whole.network, whole.variables, whole.operating_point)(images)
  np.testing.assert_array_equal(result.labels, direct.labels)
  np.testing.assert_array_equal(result.precisions, direct.precisions)
  assert len(set(result.precisions.tolist())) > 1
  assert whole(images, max_precision=4).precisions.max() <= 4
  logits = np.asarray(whole.network.apply(whole.variables, jnp.asarray(images)))
  for index, precision in enumerate(whole.bits):
    fixed = whole(images, precision=precision)
    assert set(fixed.precisions) == {precision}
    np.testing.assert_array_equal(fixed.labels, logits[index].argmax(-1))
  with pytest.raises(ValueError, match='precision 3'):
    whole(images, precision=3)


@pytest.mark.parametrize('shape', [(2, 16, 16, 3), (2, 33, 31, 3), (2, 32, 32, 1), (32, 32, 3)])
def test_images_of_another_shape_are_refused(whole: dpoq_jax.Classifier, shape: tuple[int, ...]):
  """A network that averages over positions would label any size, as it was never trained to."""
  with pytest.raises(ValueError, match=r'give \[batch, 32, 32, 3\]'):
    whole(np.zeros(shape, np.uint8))


def test_fewer_rings_leave_earlier_and_are_otherwise_the_same(
  whole: dpoq_jax.Classifier, images: np.ndarray
):
  smaller = dpoq_jax.load_pretrained(NAME, max_bits=4)
  assert (smaller.bits, list(smaller.top1)) == ((2, 4), [2, 4])
  assert smaller.operating_point
  assert smaller.operating_point.reported is None
  capped, result = whole(images, max_precision=4), smaller(images)
  np.testing.assert_array_equal(result.labels, capped.labels)
  np.testing.assert_array_equal(result.precisions, capped.precisions)
  np.testing.assert_array_equal(result.probabilities, capped.probabilities)
  with pytest.raises(ValueError, match='max_bits=1'):
    dpoq_jax.load_pretrained(NAME, max_bits=1)


def test_an_operating_point_of_another_network_is_refused(whole: dpoq_jax.Classifier):
  folder, point = pretrained.folder(NAME), whole.operating_point
  assert point
  assert point.data
  assert dpoq_jax.load(folder, point=point).operating_point == point
  smaller = point.lowest(2)
  assert dpoq_jax.load(folder, max_bits=4, point=smaller).operating_point == smaller
  for max_bits, bits in ((None, (2, 4)), (4, (2, 4, 9)), (4, (2,))):
    other = operating_point.static(bits, 2)
    with pytest.raises(ValueError, match=r'the operating point is for bits=.* has \(2, 4, 8\)'):
      dpoq_jax.load(folder, max_bits=max_bits, point=other)
  others = point.data.model_copy(update={'dataset': 'digits'})
  with pytest.raises(ValueError, match='chosen on digits, the network is for cifar10'):
    dpoq_jax.load(folder, point=point.model_copy(update={'data': others}))
  later = point.data.model_copy(update={'step': point.data.step + 1})
  with pytest.warns(UserWarning, match='what it is worth there is not known'):
    dpoq_jax.load(folder, point=point.model_copy(update={'data': later}))


def test_an_artifact_whose_operating_point_makes_no_sense_is_named(tmp_path: pathlib.Path):
  folder = pathlib.Path(shutil.copytree(pretrained.folder(NAME), tmp_path / 'rings'))
  manifest = manifest_lib.read(folder)
  point = {**manifest.operating_points[0], 'thresholds': {}}
  altered = manifest.model_copy(update={'operating_points': (point,)})
  (folder / manifest_lib.FILE).write_text(manifest_lib.to_json(altered))
  with pytest.raises(ArtifactError, match=r'manifest\.json: not an operating point: .*thresholds'):
    dpoq_jax.load(folder)


def test_a_run_is_opened_with_its_operating_point_or_without(
  uninterrupted: pathlib.Path, tmp_path: pathlib.Path
):
  opened = dpoq_jax.load(uninterrupted)
  assert opened.operating_point is None
  assert list(opened.top1) == list(opened.bits)
  images = np.zeros((3, *opened.image_shape), np.uint8)
  on_device = jnp.asarray(images)
  # Nothing decides where to leave: the best there is.
  assert set(opened(images).precisions) == {opened.bits[-1]}
  trained = from_run.open_network(uninterrupted)
  cut = dpoq_jax.load(str(uninterrupted), max_bits=2)
  assert (cut.bits, list(cut.top1)) == ((2,), [2])
  expected = trained.network.apply(trained.variables, on_device, precisions=(2,))
  np.testing.assert_array_equal(cut.network.apply(cut.variables, on_device), expected)


def test_it_says_what_it_is_in_a_line(whole: dpoq_jax.Classifier, images: np.ndarray):
  assert repr(whole) == (
    'Classifier(10 classes, images 32x32x3, 2 bits 73.1 %, 4 bits 75.7 %, 8 bits 77.0 %, '
    'with an operating point)'
  )
  for each in (whole(images), dpoq_jax.load_pretrained(NAME)):
    assert len(repr(each)) < 200
    assert '\n' not in repr(each)


def test_what_is_not_there_is_named(tmp_path: pathlib.Path):
  with pytest.raises(FileNotFoundError, match=r'there is no .*nowhere'):
    dpoq_jax.load(tmp_path / 'nowhere')
  with pytest.raises(FileNotFoundError, match='holds no run'):
    dpoq_jax.load(tmp_path)
  (tmp_path / 'manifest.json').write_text('{}')
  with pytest.raises(ArtifactError, match=r'manifest\.json'):
    dpoq_jax.load(tmp_path)
  with pytest.raises(ValueError, match='which has no checkpoints'):
    dpoq_jax.load(pretrained.folder(NAME), step=3)
  with pytest.raises(ValueError, match=f'did you mean {NAME}'):
    dpoq_jax.load_pretrained('cifar10_resnet')


def test_a_shared_baseline_is_opened_at_one_precision(tmp_path: pathlib.Path):
  done = runs.command(
    'train', f'--config={runs.TINY_NET},system=shared,smoke', f'--workdir={tmp_path / "run"}'
  )
  assert done.returncode == 0, done.stderr
  np.save(tmp_path / 'x.npy', np.zeros((2, 8, 8, 1), np.uint8))
  images = f'{tmp_path / "x.npy"}'
  status, err = runs.refused('predict', f'--workdir={tmp_path / "run"}', images)
  assert status == 2
  assert 'one alone has to be asked for' in err
  done = runs.call('predict', f'--workdir={tmp_path / "run"}', images, '--precision=2')
  assert done.returncode == 0, done.stderr
  opened = dpoq_jax.load(tmp_path / 'run', precision=2)
  assert (opened.bits, list(opened.top1)) == ((2,), [2])
  assert jax.tree.leaves(opened.variables)
