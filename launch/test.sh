#!/usr/bin/env bash
# Lints, type-checks and tests; stops at the first stage that fails.
#
#   bash launch/test.sh [--all | --nightly-shard=I/N] [flags of pytest]
#
# By default the tests marked `nightly` are left out: more runs of several processes, more kills,
# the deepest networks, all of a table of the paper. --all runs them, too, and the
# `exhaustive` ones: thousands of damaged inputs and kills; --nightly-shard=I/N a part
# of them, the same one each time, I from 1 to N. The ten slowest tests are listed at the end.
#
# TEST_WORKERS sets how many processes share the tests (2).
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/help.sh
source launch/help.sh
help_if_asked launch/test.sh "$@"
bash launch/setup.sh test
bin=.venv/bin

stage() {
  local name=$1 started=$SECONDS status=0
  shift
  "$@" || status=$?
  if ((status)); then
    echo "== $name: FAILED after $((SECONDS - started)) s" >&2
    exit "$status"
  fi
  echo "== $name: $((SECONDS - started)) s"
}

stage lint "$bin/ruff" check
stage format "$bin/ruff" format --check
stage imports "$bin/lint-imports" --config setup.cfg --no-cache --no-logo
stage types "$bin/pyright" --pythonpath "$bin/python"
# What users import, and the arithmetic under it, have to be typed in full.
stage "strict types" "$bin/pyright" --project pyrightconfig.strict.json --pythonpath "$bin/python"
# The examples in docstrings of the modules that are arithmetic; status 5 says that there is none.
examples() {
  "$bin/python" -m pytest -q --doctest-modules dpoq_jax/onion.py dpoq_jax/core \
    dpoq_jax/inference/curve.py || (($? == 5))
}
stage examples examples
# Last, in place of this process: its closing line, with the time the tests took, ends the output.
# Workers begin at different tests and keep to modules, whose tests share what they compile, until
# one has nothing left to do.
exec "$bin/python" -m pytest -n "${TEST_WORKERS:-2}" --dist=worksteal --durations=10 "$@"
