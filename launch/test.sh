#!/usr/bin/env bash
# Lints, type-checks and tests; stops at the first stage that fails.
#
#   bash launch/test.sh [flags of pytest]
#
# TEST_WORKERS sets how many processes share the tests (2).
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
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
# Last, in place of this process: its closing line, with the time the tests took, ends the output.
exec "$bin/python" -m pytest -n "${TEST_WORKERS:-2}" "$@"
