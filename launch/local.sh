#!/usr/bin/env bash
# Trains, on this machine: `python -m dpoq_jax.train` with all its set-up done first.
#
#   bash launch/local.sh [flags of dpoq_jax.train]
#
# A relative --workdir is relative to the folder this is called from, every other path to the
# repository root. Without --workdir the run goes to runs/NAME in the repository, NAME being that of
# the config file (and its variant), or digits for the embedded default. `dpoq train --help` lists the
# flags of training.
set -euo pipefail
caller=$PWD
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/help.sh
source launch/help.sh
help_if_asked launch/local.sh "$@"
bash launch/setup.sh runtime
# shellcheck source=launch/flags.sh
source launch/flags.sh
flags=()
resolve_flags "$caller" "$PWD" "$@"
# On Linux, huge pages for what XLA takes and gives back each step: a tenth off a training step.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:+$GLIBC_TUNABLES:}glibc.malloc.hugetlb=1"
# exec: a signal sent to this process reaches Python, which saves before it stops.
exec .venv/bin/python -m dpoq_jax.train "${flags[@]}"
