"""Tests of `dpoq_jax.data.prepare_folder`, and of the images that it stages."""

import collections
import io
import pathlib
import shutil
import subprocess
import sys
from typing import Any, cast
import warnings

import numpy as np
from PIL import Image
import pytest

from dpoq_jax.data import crop, decode, labelled_files, prepare_folder, staged_images
from dpoq_jax.data.prepare_folder import Options
from tests.data import photographs
from tests.end_to_end import runs


@pytest.fixture
def photos(tmp_path: pathlib.Path) -> pathlib.Path:
  """Eight of each class, in all modes."""
  return photographs.write(tmp_path / 'photos', 40)


def read(path: pathlib.Path) -> dict[str, dict[str, dict[str, Any]]]:
  """The records of each split, by file name, read by plain TFDS."""
  import tensorflow_datasets as tfds

  builder = cast(Any, tfds.builder_from_directory(path))
  skip = {'image': tfds.decode.SkipDecoding()}
  return {
    split: {
      example['file_name'].decode(): example
      for example in builder.as_data_source(split, decoders=skip)
    }
    for split in builder.info.splits
  }


def pixels(encoded: bytes) -> np.ndarray:
  """Pixels as any reader sees them that minds neither orientation nor mode."""
  with Image.open(io.BytesIO(encoded)) as image:
    assert image.mode == 'RGB'
    assert image.getexif().get(0x0112, 1) == 1
    return np.asarray(image)


def upright(path: pathlib.Path) -> np.ndarray:
  with path.open('rb') as file, decode.opened(file) as image:
    return np.asarray(decode.decoded(image, 3))


def error_of(argv: list[str], capsys: pytest.CaptureFixture[str], status: int = 2) -> str:
  """What a failing command says last, having checked its exit status."""
  assert runs.status_of('prepare', 'folder', *argv) == status
  out, err = capsys.readouterr()
  assert out == ''
  assert err.splitlines()[-1].startswith('error: ')
  return err.splitlines()[-1]


def test_every_image_is_stored_upright_in_rgb(photos: pathlib.Path, tmp_path: pathlib.Path):
  said = prepare_folder.write('flowers', photos, str(tmp_path / 'tfds'))
  version = tmp_path / 'tfds' / 'flowers' / '1.0.0'
  assert f'written to {version}: 5 classes; images: train 35, validation 5\n' in said
  splits = read(version)
  assert list(splits) == ['train', 'validation']
  examples = splits['train'] | splits['validation']
  assert len(examples) == 40
  kept = 0
  for name, example in examples.items():
    path = photos / name
    assert photographs.CLASSES[example['label']] == path.parent.name
    found, expected = pixels(example['image']).astype(int), upright(path).astype(int)
    assert found.shape == expected.shape
    # Exact, but for JPEGs that had to be encoded anew, here of noise.
    assert np.abs(found - expected).mean() < (4 if path.suffix == '.JPG' else 1e-9)
    kept += example['image'] == path.read_bytes()
  # Half of those in RGB are upright: they are stored as they are.
  assert kept >= 5
  assert (version / 'label.labels.txt').read_text().splitlines() == list(photographs.CLASSES)
  assert sorted(path.name for path in version.parent.iterdir()) == ['.lock', '1.0.0']


def test_the_split_is_drawn_by_seed_in_each_class(photos: pathlib.Path, tmp_path: pathlib.Path):
  def held_out(data_dir: str, seed: int) -> set[str]:
    options = Options(holdout=0.25, seed=seed)
    prepare_folder.write('flowers', photos, str(tmp_path / data_dir), options)
    return set(read(tmp_path / data_dir / 'flowers' / '1.0.0')['validation'])

  first = held_out('a', 0)
  assert collections.Counter(name.split('/')[0] for name in first) == dict.fromkeys(
    photographs.CLASSES, 2
  )
  assert held_out('b', 0) == first
  assert held_out('c', 1) != first


def test_copies_stay_in_one_drawn_split(tmp_path: pathlib.Path):
  photos = photographs.write(tmp_path / 'photos', 20)
  for path in list(photos.rglob('*.*')):
    # Another file of the same pixels.
    with path.open('rb') as file, decode.opened(file) as image:
      decode.decoded(image, 3).save(path.with_name(f'{path.stem}_copy.png'))
  with warnings.catch_warnings(action='error'):
    prepare_folder.write('flowers', photos, str(tmp_path), Options(holdout=0.5))
  for split in read(tmp_path / 'flowers' / '1.0.0').values():
    stems = collections.Counter(pathlib.Path(name).stem.removesuffix('_copy') for name in split)
    assert set(stems.values()) == {2}


def test_copies_across_kept_splits_and_classes_are_named(tmp_path: pathlib.Path):
  photos = tmp_path / 'photos'
  photographs.write(photos / 'train', 15)
  photographs.write(photos / 'val', 10, seed=1)
  copied, other = sorted((photos / 'train' / 'apple').iterdir())[:2]
  shutil.copy(copied, photos / 'val' / 'apple' / f'again{copied.suffix}')
  shutil.copy(other, photos / 'train' / 'bee' / f'also{other.suffix}')
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    said = prepare_folder.write('flowers', photos, str(tmp_path))
  assert 'images: train 16, validation 11\n' in said
  assert sorted(str(each.message) for each in caught) == [
    f'the same image is in several classes: train/apple/{other.name} (train) and '
    f'train/bee/also{other.suffix} (train).',
    f'the same image is in several splits: train/apple/{copied.name} (train) and '
    f'val/apple/again{copied.suffix} (validation); accuracies will be too high.',
  ]


def test_corrupt_files_are_named_and_skipped_up_to_a_limit(
  photos: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  (photos / 'bee' / 'empty.jpg').touch()
  whole = next((photos / 'elk').glob('*.JPG'))
  (photos / 'elk' / 'half.jpg').write_bytes(whole.read_bytes()[:500])
  argv = ['flowers', f'--source={photos}', f'--data-dir={tmp_path}']
  error = error_of([*argv, '--max-corrupt=1'], capsys, status=1)
  assert error.startswith('error: 2 files cannot be read, more than --max-corrupt=1, the last one ')
  assert 'elk/half.jpg: ' in error
  assert not (tmp_path / 'flowers' / '1.0.0').exists()
  done = runs.command('prepare', 'folder', *argv)
  assert done.returncode == 0, done.stderr
  assert 'validation 5; 2 could not be read\n' in done.stdout
  assert done.stdout.splitlines()[1].startswith('train on it: dpoq train --config=own_images ')
  # In a pipe nothing is drawn.
  first, second = done.stderr.splitlines()
  assert first == 'warning: skipping bee/empty.jpg: an empty file.'
  assert second.startswith('warning: skipping elk/half.jpg: ')


def test_a_stopped_run_goes_on(
  photos: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
  converted, decoded = staged_images._converted, []

  def counted(path: pathlib.Path, shorter_side: int) -> tuple[bytes, bytes | None]:
    if len(decoded) >= 25:
      raise KeyboardInterrupt
    decoded.append(path)
    return converted(path, shorter_side)

  monkeypatch.setattr(staged_images, '_BATCH', 10)
  monkeypatch.setattr(staged_images, '_converted', counted)
  with pytest.raises(KeyboardInterrupt):
    prepare_folder.write('flowers', photos, str(tmp_path))
  assert [path.name for path in (tmp_path / 'flowers').glob('inc*')] == ['incomplete.images.sqlite']
  # What TFDS leaves when it is killed is cleared away.
  (tmp_path / 'flowers' / 'incomplete.ABCDEF_1.0.0').mkdir()
  first, decoded[:] = set(decoded[:20]), []
  # One has changed since: it is read again.
  changed = min(first)
  photographs.save(photographs.picture(np.random.default_rng(9), 0), 'RGB', changed)
  monkeypatch.setattr(
    staged_images, '_converted', lambda *a: (decoded.append(a[0]), converted(*a))[1]
  )
  prepare_folder.write('flowers', photos, str(tmp_path))
  assert len(decoded) == 21
  assert set(decoded) & first == {changed}
  examples = read(tmp_path / 'flowers' / '1.0.0')
  examples = examples['train'] | examples['validation']
  name = changed.relative_to(photos).as_posix()
  assert examples[name]['image'] == changed.read_bytes()
  assert sorted(path.name for path in (tmp_path / 'flowers').iterdir()) == ['.lock', '1.0.0']


def test_images_shrunk_for_a_size_look_the_same_in_evaluation(tmp_path: pathlib.Path):
  # PNGs: a JPEG would be encoded anew.
  photos, rng = tmp_path / 'photos', np.random.default_rng(0)
  for number in range(8):
    path = photos / photographs.CLASSES[number % 2] / f'{number}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    photographs.picture(rng, number % 2).save(path)
  argv = ['flowers', f'--source={photos}', f'--data-dir={tmp_path}', '--image-size=28']
  assert runs.status_of('prepare', 'folder', *argv) == 0
  for split in read(tmp_path / 'flowers' / '1.0.0').values():
    for name, example in split.items():
      before = upright(photos / name)
      found = pixels(example['image'])
      assert min(found.shape[:2]) == min(32, *before.shape[:2])
      expected = crop.evaluation_crop((photos / name).read_bytes(), size=28, shorter_side=32)
      np.testing.assert_array_equal(crop.evaluation_crop(example['image'], 28, 32), expected)


def test_a_table_is_a_source(photos: pathlib.Path, tmp_path: pathlib.Path):
  found = labelled_files.find(photos)
  lines = [f'{each.name},"{each.label}"' for each in found.files]
  table = photos / 'labels.csv'
  table.write_text('\n'.join(['path,label', *lines]))
  prepare_folder.write('flowers', table, str(tmp_path))
  prepare_folder.write('again', photos, str(tmp_path))
  assert read(tmp_path / 'flowers' / '1.0.0') == read(tmp_path / 'again' / '1.0.0')


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['Flowers', '--source={photos}'], "'Flowers' cannot name a data set: give small letters"),
    (['my-flowers', '--source={photos}'], "'my-flowers' cannot name a data set"),
    (['1st', '--source={photos}'], "'1st' cannot name a data set"),
    (['cifar10', '--source={photos}'], 'cifar10 is the name of another data set'),
    (['--source={photos}'], 'give the data set a name: dpoq prepare folder NAME'),
    (['flowers'], '--source=PHOTOS is required'),
    (['flowers', '--source={photos}', '--holdout=1.5'], '--holdout=1.5: a share above 0'),
    (['flowers', '--source={photos}/nowhere'], 'nowhere: give a folder with a folder of images'),
    (['flowers', '--source={photos}/bee'], 'bee holds no images in folders of classes'),
  ],
)
def test_what_cannot_be_prepared_is_one_line(
  photos: pathlib.Path,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
  arguments: list[str],
  message: str,
):
  argv = [each.format(photos=photos) for each in arguments]
  assert message in error_of([*argv, f'--data-dir={tmp_path}'], capsys)
  assert [path.name for path in tmp_path.iterdir()] == ['photos']


def test_a_name_that_is_taken_is_refused_before_anything_is_read(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  (tmp_path / 'flowers' / '1.0.0').mkdir(parents=True)
  argv = ['flowers', f'--source={tmp_path}/nowhere', f'--data-dir={tmp_path}']
  error = error_of(argv, capsys)
  assert error == (
    f'error: data set flowers is already in {tmp_path}/flowers/1.0.0: give another name, or delete '
    'that directory.'
  )


def test_a_class_needs_two_images(tmp_path: pathlib.Path):
  photos = photographs.write(tmp_path / 'photos', 9)
  with pytest.raises(ValueError, match='class elk has one image that can be read'):
    prepare_folder.write('flowers', photos, str(tmp_path))


def test_a_holdout_beside_kept_splits_is_refused(tmp_path: pathlib.Path):
  photographs.write(tmp_path / 'photos' / 'train', 5)
  photographs.write(tmp_path / 'photos' / 'test', 5)
  with pytest.raises(ValueError, match=r'--holdout=0\.2: .*photos has splits of its own'):
    prepare_folder.write('flowers', tmp_path / 'photos', str(tmp_path), Options(holdout=0.2))


def test_flags_of_folders_are_refused_for_archives(capsys: pytest.CaptureFixture[str]):
  assert runs.status_of('prepare', 'cifar10', '--max-corrupt=1') == 2
  assert '--max-corrupt: only `dpoq prepare folder` has it.' in capsys.readouterr().err


def test_a_damaged_database_is_named(photos: pathlib.Path, tmp_path: pathlib.Path):
  (tmp_path / 'flowers').mkdir()
  database = tmp_path / 'flowers' / 'incomplete.images.sqlite'
  database.write_text('no database ' * 1000)
  with pytest.raises(OSError, match=r'incomplete\.images\.sqlite is damaged \(.*\): delete it'):
    prepare_folder.write('flowers', photos, str(tmp_path))


def test_a_class_without_a_readable_image_is_refused(tmp_path: pathlib.Path):
  photos = photographs.write(tmp_path / 'photos', 8)
  (photos / 'fog').mkdir()
  (photos / 'fog' / 'a.png').touch()
  with (
    pytest.warns(UserWarning, match=r'skipping fog/a\.png'),
    pytest.raises(ValueError, match='class'),
  ):
    prepare_folder.write('flowers', photos, str(tmp_path))


def test_tensorflow_is_not_imported(photos: pathlib.Path, tmp_path: pathlib.Path):
  script = """
import sys
from tests.end_to_end import runs
status = runs.status_of('prepare', 'folder', 'flowers', *sys.argv[1:])
assert not {'tensorflow', 'jax'} & set(sys.modules)
sys.exit(status)
"""
  done = subprocess.run(
    [sys.executable, '-c', script, f'--source={photos}', f'--data-dir={tmp_path}'],
    cwd=runs.REPOSITORY,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
