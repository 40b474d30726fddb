import errno
import os
import pathlib

import pytest

from dpoq_jax.runtime import files


def test_what_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path: pathlib.Path):
  path = tmp_path / 'file'
  files.write_whole(path, 'old')

  def fail() -> None:
    with files.whole_file(path) as file:
      file.write('new')
      raise KeyError

  with pytest.raises(KeyError):
    fail()
  assert path.read_text() == 'old'
  assert list(tmp_path.iterdir()) == [path]


def test_two_that_write_a_file_do_not_write_into_one_another(tmp_path: pathlib.Path):
  # As processes of two containers, both of which have the number 1.
  path = tmp_path / 'file'
  with files.whole_file(path) as slower:
    slower.write('slower')
    files.write_whole(path, 'fast')
    assert path.read_text() == 'fast'
  assert path.read_text() == 'slower'
  assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('content', ['text \udcff', b'\x89PNG'])
def test_text_and_bytes_are_written_whole(tmp_path: pathlib.Path, content: str | bytes):
  files.write_whole(tmp_path / 'file', content)
  written = (tmp_path / 'file').read_bytes()
  assert written == (os.fsencode(content) if isinstance(content, str) else content)


def test_a_full_disk_is_said_with_the_file(tmp_path: pathlib.Path):
  full = tmp_path / 'file'

  def write() -> None:
    with files.whole_file(full), pathlib.Path('/dev/full').open('w', encoding='utf-8') as device:
      device.write('x')

  with pytest.raises(OSError, match='No space left') as error:
    write()
  assert error.value.errno == errno.ENOSPC
  assert error.value.filename == str(full)
  assert list(tmp_path.iterdir()) == []


def test_no_device_and_no_pipe_is_replaced(tmp_path: pathlib.Path):
  pipe = tmp_path / 'pipe'
  os.mkfifo(pipe)
  link = tmp_path / 'link'
  link.symlink_to('/dev/null')
  for path in (pipe, link):
    with pytest.raises(FileExistsError, match='is no regular file'):
      files.write_whole(path, 'x')
  assert pipe.is_fifo()
  assert link.is_symlink()


def test_a_link_stays_one(tmp_path: pathlib.Path):
  target, link = tmp_path / 'folder' / 'target', tmp_path / 'link'
  target.parent.mkdir()
  link.symlink_to(target)
  files.write_whole(link, 'x')
  assert link.is_symlink()
  assert target.read_text() == 'x'
