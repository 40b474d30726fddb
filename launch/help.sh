# Sourced by the other scripts: prints what one says of itself, and ends it, if --help is asked for.
# shellcheck shell=bash

#   help_if_asked SCRIPT [arguments of the script]
#
# What comes after -- is of the command that the script starts.
help_if_asked() {
  local script=$1 argument
  shift
  for argument; do
    case $argument in
      --) return ;;
      --help | -h)
        awk 'NR > 1 && !/^#( |$)/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$script"
        exit 0
        ;;
    esac
  done
}
