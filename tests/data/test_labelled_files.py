"""Tests of `dpoq_jax.data.labelled_files`; the files are empty, since none is read."""

import pathlib

import pytest

from dpoq_jax.data import labelled_files


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
  return tmp_path / 'photos'


def touch(folder: pathlib.Path, *names: str) -> pathlib.Path:
  for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
  return folder


def described(found: labelled_files.Found) -> list[tuple[str, str, str | None]]:
  return [(each.name, each.label, each.split) for each in found.files]


def table(folder: pathlib.Path, text: str) -> pathlib.Path:
  touch(folder, 'a.jpg', 'more/b.jpg')
  path = folder / 'labels.csv'
  path.write_text(text)
  return path


def test_each_folder_is_a_class(folder):
  touch(folder, 'cat/b.jpg', 'cat/old/a.PNG', 'dog/a.jpg')
  touch(folder, 'cover.jpg', 'dog/notes.txt', 'dog/._a.jpg', '.cache/a.jpg')
  found = labelled_files.find(folder)
  assert found.classes == ('cat', 'dog')
  assert not found.has_splits
  assert described(found) == [
    ('cat/b.jpg', 'cat', None),
    ('cat/old/a.PNG', 'cat', None),
    ('dog/a.jpg', 'dog', None),
  ]
  assert found.passed_over == {'.txt': 1, 'hidden': 2, 'in no class': 1}


def test_folders_of_splits_are_kept(folder):
  touch(folder, 'Train/cat/a.jpg', 'Train/dog/a.jpg', 'val/dog/b.jpg', 'test/cat/c.jpg')
  found = labelled_files.find(folder)
  assert found.has_splits
  assert {(each.label, each.split) for each in found.files} == {
    *(('cat', 'train'), ('dog', 'train'), ('dog', 'validation'), ('cat', 'test'))
  }


def test_splits_beside_another_folder_are_warned_of(folder):
  touch(folder, 'train/cat/a.jpg', 'train/dog/a.jpg', 'Val/cat/b.jpg', 'docs/figure.png')
  with pytest.warns(UserWarning, match='Val and train taken for classes, since docs .* move docs'):
    found = labelled_files.find(folder)
  assert found.classes == ('Val', 'docs', 'train')


def test_a_class_may_be_called_train(folder):
  found = labelled_files.find(touch(folder, 'train/a.jpg', 'boat/a.jpg'))
  assert found.classes == ('boat', 'train')
  assert not found.has_splits


def test_a_training_split_alone_is_no_split(folder):
  found = labelled_files.find(touch(folder, 'train/cat/a.jpg', 'train/dog/a.jpg'))
  assert found.classes == ('cat', 'dog')
  assert not found.has_splits


def test_a_table_labels_files_relative_to_it(folder):
  # As spreadsheets save it: with a mark at the start, and in any order of the columns.
  found = labelled_files.find(table(folder, '\ufefflabel,path\ncat,a.jpg\n"big, dog",more/b.jpg\n'))
  assert described(found) == [('a.jpg', 'cat', None), ('more/b.jpg', 'big, dog', None)]
  assert found.files[1].path == folder / 'more/b.jpg'


def test_a_table_may_have_splits(folder):
  text = 'path,label,split\na.jpg,cat,train\nmore/b.jpg,dog,TRAIN\n./a.jpg,cat,val\n'
  found = labelled_files.find(table(folder, text))
  assert {each.split for each in found.files} == {'train', 'validation'}


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('file,label\na.jpg,cat\n', 'has the columns file, label: they are path and label'),
    ('path,label,note\na.jpg,cat,x\n', 'has the columns path, label, note: they are'),
    ('', 'has the columns none'),
    ('path,label\n', 'it has no line below its first'),
    ('path,label\na.jpg,cat\n\nc.jpg,dog\n', '1 of 2 files that are not in .*c.jpg in line 4'),
    ('path,label\na.jpg,\nmore/b.jpg,dog\n', 'line 2: give path, label, none of them empty'),
    ('path,label\na.jpg,cat,dog\n', 'line 2: give path, label'),
    ('path,label\na.jpg,cat\na.jpg,dog\n', 'line 3: a.jpg has a label already, in line 2'),
    ('path,label,split\na.jpg,cat,dev\n', "line 2: split 'dev' is none of train, val"),
    ('path,label\na.jpg,cat\n"more/b.jpg,dog\n', r'is no CSV file \(unexpected end of data\)'),
  ],
)
def test_a_table_that_cannot_be_read_is_refused(folder, text, message):
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    labelled_files.find(table(folder, text))


def test_a_table_in_another_encoding_is_refused(folder):
  path = table(folder, '')
  path.write_bytes('path,label\na.jpg,brûlée\n'.encode('latin-1'))
  with pytest.raises(ValueError, match=r'labels\.csv is not UTF-8'):
    labelled_files.find(path)


@pytest.mark.parametrize(
  ('names', 'message'),
  [
    (['cat/a.txt'], r'holds no images in folders of classes \(1 file passed over \(\.txt 1\)\)'),
    (['a.jpg', 'b.jpg'], r'2 files passed over \(in no class 2\)\).*photos/cat/1\.jpg'),
    (['cat/a.jpg'], 'holds one class, cat: to classify images takes two or more'),
    (['val/cat/a.jpg', 'test/dog/a.jpg'], 'but none to train on: call it train'),
    (
      ['train/cat/a.jpg', 'train/dog/a.jpg', 'val/cow/a.jpg'],
      'train has no images of class cow, other splits do',
    ),
    (['cat/a.jpg', 'd\nog/a.jpg'], r"the name of class 'd\\nog' cannot be written down"),
    (['cat/a.jpg', 'd\udcffog/a.jpg'], r"the name of class 'd\\udcffog' cannot be written down"),
  ],
)
def test_a_folder_that_cannot_be_trained_on_is_refused(folder, names, message):
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    labelled_files.find(touch(folder, *names))


def test_a_source_that_is_none_is_refused(folder):
  for path in (folder / 'nowhere', touch(folder, 'a.jpg') / 'a.jpg'):
    with pytest.raises(FileNotFoundError, match='give a folder with a folder of images for each'):
      labelled_files.find(path)
