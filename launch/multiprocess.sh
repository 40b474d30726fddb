#!/usr/bin/env bash
# Trains with N processes on this machine, the code path of many machines: on CPUs, to try it out,
# or on GPUs, of which process I gets number I. (The chips of a TPU VM are one process's.)
#
#   bash launch/multiprocess.sh N [--command=NAME] [--logs=DIR] [--grace=SECONDS] [--dry-run]
#       [-- flags of dpoq_jax.train]
#
# --workdir is as for launch/local.sh. What process I prints is appended to DIR/process-I.log
# (WORKDIR/logs), that of process 0 shown as well. SIGTERM, SIGINT and a terminal that closes reach
# all processes, which save before they stop; a second signal kills them. As soon as one process
# ends with an error the others get a SIGTERM, then, after SECONDS (30), a SIGKILL: they may be
# stuck waiting for it. The exit status is that of the first error. --command names another command
# of dpoq_jax that takes the same flags, as evaluate; --dry-run prints what would be run. Where JAX
# runs is as ever: JAX_PLATFORMS, XLA_FLAGS.
set -euo pipefail
caller=$PWD
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/help.sh
source launch/help.sh
help_if_asked launch/multiprocess.sh "$@"
# shellcheck source=launch/flags.sh
source launch/flags.sh

usage() {
  echo "multiprocess: $*; usage: bash launch/multiprocess.sh N [--command=NAME] [--logs=DIR]" \
    "[--grace=SECONDS] [--dry-run] [-- flags of dpoq_jax.train]" >&2
  exit 2
}

number=${1:-}
[[ $number =~ ^[1-9][0-9]{0,3}$ ]] || usage "'$number' processes asked for: give a number from 1"
shift
command=train logs='' grace=30 dry_run=
while (($#)) && [[ $1 != -- ]]; do
  case $1 in
    --command=?*) command=${1#*=} ;;
    --logs=?*) logs=$(absolute "$caller" "${1#*=}") ;;
    --grace=*) grace=${1#*=} ;;
    --dry-run) dry_run=1 ;;
    *) usage "'$1' is none of the options (flags of training come after --)" ;;
  esac
  shift
done
[[ $grace =~ ^[0-9]+$ ]] || usage "--grace=$grace is not a number of seconds"
(($#)) && shift
flags=()
resolve_flags "$caller" "$PWD" "$@"
if [[ -z $logs ]]; then
  [[ $workdir != *://* && -n $workdir ]] \
    || usage "no folder for logs in '$workdir': give --logs=DIR"
  logs=$workdir/logs
fi

# The words of process $1's command, in the array `words`.
process_command() {
  words=(.venv/bin/python -m "dpoq_jax.$command" --coordinator="localhost:$port"
    --num-processes="$number" --process-id="$1" "${flags[@]}")
  # Without it every process would take all GPUs of the machine. CPUs do not mind.
  ((number == 1)) || words=(env JAX_LOCAL_DEVICE_IDS="$1" "${words[@]}")
}

if [[ -n $dry_run ]]; then
  port=PORT
  echo "bash launch/setup.sh runtime"
  for ((i = 0; i < number; i++)); do
    process_command "$i"
    echo "$(printf '%q ' "${words[@]}")>> $(printf %q "$logs/process-$i.log") 2>&1"
  done
  exit
fi

bash launch/setup.sh runtime
mkdir -p -- "$logs"
# Free when asked for. Process 0 takes it again a second or two later.
port=$(.venv/bin/python -c 'import socket
with socket.socket() as s:
  s.bind(("", 0))
  print(s.getsockname()[1])')
export GLIBC_TUNABLES="${GLIBC_TUNABLES:+$GLIBC_TUNABLES:}glibc.malloc.hugetlb=1"

# Only noted here, acted on in the loop below: no process is missed that is just being started.
requests=()
trap 'requests+=(TERM)' TERM HUP
trap 'requests+=(INT)' INT

pids=()
# Process groups of their own, or Ctrl-C would reach them from the terminal as well: twice.
set -m
for ((i = 0; i < number; i++)); do
  process_command "$i"
  if ((i == 0)); then
    # What shows the output outlives the process, whose last line says that it has saved.
    "${words[@]}" < /dev/null > >(
      trap '' HUP INT TERM
      exec tee -a -- "$logs/process-0.log"
    ) 2>&1 &
  else
    "${words[@]}" < /dev/null >> "$logs/process-$i.log" 2>&1 &
  fi
  pids+=($!)
done
set +m

signal_all() {
  for i in ${running[@]+"${running[@]}"}; do
    kill -s "$1" -- "${pids[i]}" || true
  done
}
kill_all() {
  # Groups: with the processes that decode images.
  for i in "${!pids[@]}"; do
    kill -s KILL -- "-${pids[i]}" || true
  done
}

# Bash has something to say of every process that is killed, the whole command with it.
exec 3>&2 2> /dev/null

running=("${!pids[@]}")
acted=0
first_error=0
kill_at=
# Looked at in turn: `wait -n` is not in every bash, nor does it say whose status it gives.
while ((${#running[@]})); do
  sleep 0.2 || true
  while ((acted < ${#requests[@]})); do
    if ((acted == 0)); then signal_all "${requests[0]}"; else kill_all; fi
    acted=$((acted + 1))
  done
  left=()
  failed=
  for i in "${running[@]}"; do
    if kill -0 "${pids[i]}"; then
      left+=("$i")
      continue
    fi
    status=0
    wait "${pids[i]}" || status=$?
    ((first_error)) || first_error=$status
    # Those that were asked to stop end with 128 + the signal.
    if [[ -z $kill_at ]] && ((status && !(acted && (status == 143 || status == 130)))); then
      failed=$i
      echo "multiprocess: process $i ended with status $status." >&3
      ((i == 0)) || tail -n 3 -- "$logs/process-$i.log" >&3
    fi
  done
  running=(${left[@]+"${left[@]}"})
  if [[ -n $failed ]]; then
    signal_all TERM
    kill_at=$((SECONDS + grace))
  fi
  if [[ -n $kill_at ]] && ((SECONDS >= kill_at)); then kill_all; fi
done
exit "$first_error"
