"""Runs that are ended in every phase end as if nothing had happened; see `kills`."""

import os
import re
import subprocess
import sys

import pytest

from tests.end_to_end import runs


@pytest.mark.parametrize(
  ('signal', 'count'),
  [
    ('KILL', 5),
    pytest.param('KILL', 20, marks=pytest.mark.nightly),
    pytest.param('KILL', 1000, marks=pytest.mark.exhaustive),
    pytest.param('TERM', 200, marks=pytest.mark.exhaustive),
  ],
)
def test_a_run_ended_at_random_moments_equals_one_left_alone(signal: str, count: int):
  done = subprocess.run(
    [sys.executable, '-m', 'tests.end_to_end.kills', f'--signal={signal}', f'--count={count}'],
    cwd=runs.REPOSITORY, env=dict(os.environ), text=True, capture_output=True, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stdout + done.stderr
  assert done.stdout.startswith(f'SIG{signal}: {count} (')
  assert ' 0 differ' in done.stdout
  # Every phase has its share, although the shortest are often over before the signal comes.
  fell = {name: int(number) for number, name in re.findall(r'([0-9]+) in ([a-z]+)', done.stdout)}
  assert len(fell) == 5
  assert min(fell.values()) >= count // 20
