"""What the tests of launch scripts put in place of the real thing."""

import os
from pathlib import Path
import shutil
import subprocess

ROOT = Path(__file__).resolve().parents[2]


def checkout(parent: Path) -> Path:
  """A copy of what the scripts read, without packages, in a folder with a space in its name."""
  root = parent / 'a checkout'
  shutil.copytree(ROOT / 'launch', root / 'launch')
  for name in ('LICENSE', 'README.md', 'pyproject.toml', 'requirements.txt', 'setup.cfg'):
    shutil.copy(ROOT / name, root)
  return root


def set_up_checkout(parent: Path, python: str) -> Path:
  """The same, its set-up done: `python` is the bash that runs as its Python."""
  root = checkout(parent)
  (root / 'launch/setup.sh').write_text('')
  executable(root / '.venv/bin/python', python, shell='/bin/bash')
  return root


def executable(path: Path, text: str, shell: str = '/bin/sh') -> None:
  """Writes a script."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(f'#!{shell}\n{text}\n')
  path.chmod(0o755)


def run(
  *command: str | Path, cwd: Path, path: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
  """Runs a command.

  Args:
    command: to run.
    cwd: where.
    path: directory of commands found before others.
    environment: added to that of the tests.
  """
  if path:
    environment['PATH'] = f'{path}{os.pathsep}{os.environ["PATH"]}'
  return subprocess.run(
    command,
    cwd=cwd,
    env={**os.environ, **environment},
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
    timeout=60,
  )
