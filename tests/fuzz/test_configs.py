"""Configs of any content: from files, dicts and flags."""

import contextlib
import io
import json
import sys
from typing import Any
from unittest import mock

import numpy as np
import pytest

from dpoq_jax import config as config_lib
from dpoq_jax.cli import flags as shared
from dpoq_jax.cli.run import run
from dpoq_jax.config import variants
from tests.fuzz import mutations

TEXT = config_lib.Config().model_dump_json()
FIELDS = sorted(config_lib.field_names())
WORDS = (
  *('None', '0', '-1', '1', '8', '99999999999999999999', '1e400', 'nan', '0.5', 'True', '', 'x'),
  *('(2, 4)', '2,4', '(', '[' * 200, '~/x', '~nobody/x', '\0', '\udcff', '[bold]', '{}', "'a'"),
)


def assert_usable(config: config_lib.Config) -> None:
  """A config that was taken can be written, read back and judged."""
  assert config_lib.from_json(config.model_dump_json()) == config
  assert all('\n' not in each for each in config_lib.ineffective(config))
  assert not config_lib.differences(config, config, apart=frozenset())


def is_refusal(error: Exception) -> bool:
  """Whether an error is one line that names a field."""
  return str(error).startswith(('config', 'variant')) and '\n' not in str(error).strip()


@mutations.counts
@mutations.no_hang(200)
def test_json(count: int):
  rng, taken = np.random.default_rng(0), 0
  refusals: list[Exception] = []
  for _ in range(count):
    text = mutations.mutated_json(rng, TEXT)
    for read in (config_lib.from_json, lambda text: config_lib.validate(json.loads(text))):
      try:
        assert_usable(read(text))
        taken += 1
      except config_lib.ConfigError as error:
        refusals.append(error)
      except json.JSONDecodeError as error:
        # What could not be written as JSON was cut in two.
        refusals += [] if text == TEXT[: len(TEXT) // 2] else [error]
  assert all(map(is_refusal, refusals))
  assert 0 < taken < 2 * count


@mutations.counts
@mutations.no_hang(200)
def test_flags(count: int):
  rng, taken = np.random.default_rng(1), 0
  found: list[config_lib.Config] = []

  def main(flags: shared.FlagValues) -> None:
    found.append(shared.parsed_config(flags))

  for _ in range(count):
    pairs = [(rng.choice(FIELDS), WORDS[rng.integers(len(WORDS))]) for _ in range(rng.integers(4))]
    words = [f'--config.{name}={word}' for name, word in pairs]
    err = io.StringIO()
    with (
      contextlib.redirect_stderr(err),
      mock.patch.object(sys, 'argv', ['train']),
      pytest.raises(SystemExit) as ended,
    ):
      run(shared.define_config, main, argv=words)
    if ended.value.code == 0:
      assert_usable(found[-1])
      taken += 1
    else:
      assert ended.value.code == 2
      assert err.getvalue().startswith('error: '), words
      assert err.getvalue().count('\n') == 1, words
  assert 0 < taken < count


@mutations.counts
@mutations.no_hang(200)
def test_variants(count: int):
  rng, refusals = np.random.default_rng(2), list[Exception]()
  parts = ('bits=2-4', 'system=joint', 'width=8', 'smoke', 'merge=psbn', 'activations=match', ',')
  for _ in range(count):
    chosen = ','.join(parts[i] for i in rng.integers(len(parts), size=rng.integers(1, 4)))
    text = mutations.mutated_bytes(rng, chosen.encode()).decode('latin-1').replace('\n', ' ')
    config: Any = config_lib.get_config()
    try:
      assert_usable(config_lib.validate(variants.apply(config, text)))
    except ValueError as error:
      refusals.append(error)
  assert refusals
  assert all(map(is_refusal, refusals))
