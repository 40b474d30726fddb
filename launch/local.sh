#!/usr/bin/env bash
# Trains, on this machine: `python -m dpoq_jax.train` with all its set-up done first.
#
#   bash launch/local.sh [flags of dpoq_jax.train]
#
# A relative --workdir is relative to the folder this is called from, every other path to the
# repository root. Without --workdir the run goes to runs/NAME in the repository, NAME being that of
# the config file (and its variant), or digits for the embedded default.
set -euo pipefail
caller=$PWD
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
root=$PWD
bash launch/setup.sh runtime

absolute() {
  case $1 in
    '' | /* | *://*) echo "$1" ;;
    *) echo "$caller/$1" ;;
  esac
}

name=
workdir_given=
# The flag whose value is the next argument.
flag=
# The list is fixed when the loop starts, so "$@" can be rotated: same order, workdir made absolute.
for argument; do
  shift
  case $flag:$argument in
    workdir:*) flag='' && argument=$(absolute "$argument") ;;
    config:*) flag='' && name=$argument ;;
    :--workdir | :-workdir) flag=workdir && workdir_given=1 ;;
    :--workdir=* | :-workdir=*)
      workdir_given=1
      argument=--workdir=$(absolute "${argument#*=}")
      ;;
    :--config | :-config) flag=config ;;
    :--config=* | :-config=*) name=${argument#*=} ;;
  esac
  set -- "$@" "$argument"
done
if [[ -z $workdir_given ]]; then
  name=${name##*/}
  name=${name/.py/}
  name=${name//[^[:alnum:]._=-]/-}
  set -- --workdir="$root/runs/${name:-digits}" "$@"
fi
# On Linux, huge pages for what XLA takes and gives back each step: a tenth off a training step.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:+$GLIBC_TUNABLES:}glibc.malloc.hugetlb=1"
# exec: a signal sent to this process reaches Python, which saves before it stops.
exec .venv/bin/python -m dpoq_jax.train "$@"
