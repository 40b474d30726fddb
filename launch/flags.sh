# Sourced by scripts that train on this machine: the flags of `dpoq_jax.train` as it gets them.
# shellcheck shell=bash

# Sets the array `flags` and the string `workdir`: all flags in their order, a relative --workdir
# made absolute, and one put first where none is given: runs/NAME in the repository, NAME being that
# of the config file (and its variant), or digits for the embedded default.
#
#   resolve_flags CALLER ROOT [flags of dpoq_jax.train]
#
# CALLER is the folder that a relative --workdir is relative to, ROOT the repository.
resolve_flags() {
  local caller=$1 root=$2 name='' flag='' given='' argument
  shift 2
  flags=()
  workdir=
  for argument; do
    # $flag is the flag whose value is the next argument.
    case $flag:$argument in
      workdir:*) flag='' && argument=$(absolute "$caller" "$argument") && workdir=$argument ;;
      config:*) flag='' && name=$argument ;;
      :--workdir | :-workdir) flag=workdir && given=1 ;;
      :--workdir=* | :-workdir=*)
        given=1
        workdir=$(absolute "$caller" "${argument#*=}")
        argument=--workdir=$workdir
        ;;
      :--config | :-config) flag=config ;;
      :--config=* | :-config=*) name=${argument#*=} ;;
    esac
    flags+=("$argument")
  done
  if [[ -z $given ]]; then
    name=${name##*/}
    name=${name/.py/}
    name=${name//[^[:alnum:]._=-]/-}
    workdir=$root/runs/${name:-digits}
    flags=(--workdir="$workdir" ${flags[@]+"${flags[@]}"})
  fi
}

# What a shell leaves alone after `--workdir=` the commands take for the home directory.
absolute() {
  case $2 in
    \~ | \~/*) printf '%s\n' "$HOME${2#\~}" ;;
    '' | /* | *://*) printf '%s\n' "$2" ;;
    *) printf '%s\n' "$1/$2" ;;
  esac
}
