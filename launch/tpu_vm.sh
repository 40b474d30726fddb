#!/usr/bin/env bash
# Trains on a Cloud TPU VM of any number of hosts: creates it, copies the code to all of them, runs
# one process on each, makes a new one where it is preempted, and deletes it at the end.
#
#   bash launch/tpu_vm.sh --name=NAME --zone=ZONE --share=HOST:/PATH [options]
#       -- --workdir=DIR [flags of dpoq_jax.train]
#
#   --type=TYPE        accelerator type (v5litepod-64)
#   --version=VERSION  software of the machines (v2-alpha-tpuv5-lite)
#   --share=HOST:/PATH an NFS export (Filestore, say) in the same network, mounted at /mnt/share on
#                      all hosts: the one place that outlives them. --workdir and data belong there.
#   --spot             a machine that may be taken away at any time, for less
#   --internal         no addresses outside the network; run this inside it
#   --failures=N       runs in a row that may fail while the machine is there (3)
#   --keep             do not delete it once training is done
#   --dry-run          print the commands
#
# `gcloud` must be set up: project, account, its ssh key in the agent. One process per host, as JAX
# has it on TPUs: it finds the others, and its chips, by the machine's own metadata (--distributed).
# What each prints is appended to WORKDIR/logs/w-HOST.log; that of host 0 is shown as well.
#
# Training is a systemd service on each host: a lost connection leaves it alone, and a host that is
# shut down, as when it is preempted, gives it a SIGTERM and time to save. So does Ctrl-C, or
# SIGTERM, here; the machine then stays until deleted. The same command again goes on with the
# machine that is there, and training resumes by itself.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/help.sh
source launch/help.sh
help_if_asked launch/tpu_vm.sh "$@"

fail() {
  echo "tpu_vm: $*" >&2
  exit 2
}

name='' zone='' share='' dry_run='' keep=''
type=v5litepod-64 version=v2-alpha-tpuv5-lite failures=3
create=() internal=()
while (($#)) && [[ $1 != -- ]]; do
  case $1 in
    --name=?*) name=${1#*=} ;;
    --zone=?*) zone=${1#*=} ;;
    --type=?*) type=${1#*=} ;;
    --version=?*) version=${1#*=} ;;
    --share=?*) share=${1#*=} ;;
    --failures=?*) failures=${1#*=} ;;
    --spot) create+=(--spot) ;;
    --internal) create+=(--internal-ips) && internal=(--internal-ip) ;;
    --keep) keep=1 ;;
    --dry-run) dry_run=1 ;;
    *) fail "'$1' is none of the options (flags of training come after --)" ;;
  esac
  shift
done
(($#)) && shift
[[ $name =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]] \
  || fail "--name='$name': give lower-case letters, digits, '-'."
[[ -n $zone ]] || fail "--zone=ZONE is required."
[[ $share =~ ^[A-Za-z0-9._-]+:/[A-Za-z0-9._/-]+$ ]] || fail "--share='$share' is not HOST:/PATH."
[[ $failures =~ ^[0-9]+$ ]] || fail "--failures=$failures is not a number."
workdir=
for argument; do
  [[ $argument != --workdir=* ]] || workdir=${argument#*=}
done
[[ $workdir == /mnt/share/?* ]] \
  || fail "--workdir=/mnt/share/... is required after --: nothing else outlives the machine."

quoted() {
  local words
  printf -v words '%q ' "$@"
  echo "${words% }"
}
tpu() {
  local verb=$1
  shift
  local command=(gcloud compute tpus tpu-vm "$verb" "$@" --zone="$zone" --quiet)
  if [[ -n $dry_run ]]; then quoted "${command[@]}"; else "${command[@]}"; fi
}
# Runs lines of bash on all hosts, as root: the one user who is the same on all, also to the share.
on_all() {
  local script
  script="sudo bash -c $(quoted "$1")"
  [[ -z $dry_run ]] || script=SCRIPT
  tpu ssh "$name" --worker=all ${internal[@]+"${internal[@]}"} --command="$script" || return
  [[ -z $dry_run ]] || printf '  %s\n' "# SCRIPT, run as root:" "${1//$'\n'/$'\n'  }"
}

# There is one service of that name, so none can be left over from an earlier run.
stop_service='systemctl stop dpoq.service 2> /dev/null || true'
prepare="set -e
$stop_service
if ! mountpoint -q /mnt/share; then
  hash mount.nfs 2> /dev/null || { apt-get -qq update && apt-get -qq install -y nfs-common; }
  mkdir -p /mnt/share
  mount -t nfs $share /mnt/share
fi
mkdir -p $(quoted "$workdir/logs") /opt/dpoq_jax
rm -rf /opt/dpoq_jax/dpoq_jax /opt/dpoq_jax/launch
tar -xzf dpoq_jax.tar.gz -C /opt/dpoq_jax
cd /opt/dpoq_jax
if ! bash launch/setup.sh tpu; then
  # The Python of these machines may be too old.
  apt-get -qq update && apt-get -qq install -y python3.11 python3.11-venv
  bash launch/setup.sh tpu
fi"
# RequiresMountsFor: the share is still there while training saves at shutdown. SIGTERM is for the
# process that trains, not for those that decode images.
train="host=\${HOSTNAME##*-w-}
log=$(quoted "$workdir")/logs/w-\$host.log
touch \"\$log\"
if [ \"\$host\" = 0 ]; then tail -n 0 -F \"\$log\" & trap 'sleep 1; kill %1' EXIT; fi
systemd-run --unit=dpoq --collect --wait --quiet --working-directory=/opt/dpoq_jax \\
  --setenv=HOME=/root --property=RequiresMountsFor=/mnt/share --property=KillMode=mixed \\
  --property=TimeoutStopSec=120 --property=StandardOutput=append:\"\$log\" \\
  --property=StandardError=append:\"\$log\" \\
  /opt/dpoq_jax/.venv/bin/python -m dpoq_jax.train --distributed $(quoted "$@")"

# Prints READY, PREEMPTED, ...; nothing if there is no such machine.
state() {
  gcloud compute tpus tpu-vm list --zone="$zone" --filter="name~/$name\$" --format='value(state)'
}
machine() {
  tpu create "$name" --accelerator-type="$type" --version="$version" ${create[@]+"${create[@]}"}
}
copy() {
  tpu scp "$archive" "$name:dpoq_jax.tar.gz" --worker=all ${internal[@]+"${internal[@]}"}
}

if [[ -n $dry_run ]]; then
  archive=dpoq_jax.tar.gz
  echo "# If there is no machine $name, or one that was preempted (which is deleted first):"
  machine
  echo "# Copy, set up, run:"
  echo "tar -czf $archive dpoq_jax launch README.md LICENSE pyproject.toml requirements.txt setup.cfg"
  copy
  on_all "$prepare"
  on_all "$train"
  echo "# From the top if the machine was taken away. In the end:"
  [[ -n $keep ]] || tpu delete "$name"
  exit
fi

hash gcloud 2> /dev/null || fail "gcloud is not there: install the Google Cloud CLI."
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
archive=$temporary/dpoq_jax.tar.gz
tar -czf "$archive" --exclude=__pycache__ dpoq_jax launch README.md LICENSE pyproject.toml requirements.txt setup.cfg

stopping=
stop() {
  stopping=1
  echo "tpu_vm: stopping; training saves first." >&2
  on_all "$stop_service" || true
}
trap stop INT TERM

# Runs a command that may last hours, so that a signal is acted on at once, not after it.
interruptible() {
  local status=0
  # Of a group of its own: Ctrl-C must not cut the connection before training has saved.
  set -m
  "$@" < /dev/null &
  set +m
  local job=$!
  while :; do
    status=0
    wait "$job" || status=$?
    kill -0 "$job" 2> /dev/null || return "$status"
  done
}

ensure_machine() {
  local now reply
  while [[ -z $stopping ]]; do
    now=$(state)
    echo "tpu_vm: machine $name: ${now:-none}"
    case $now in
      READY) return ;;
      '')
        if ! reply=$(machine 2>&1); then
          echo "$reply" >&2
          # No machine free is something to wait for; anything else is not.
          grep -qiE 'capacity|resource_exhausted|stockout|unavailable' <<< "$reply" || exit 1
          sleep "${TPU_VM_WAIT:-60}"
        fi
        ;;
      PREEMPTED | TERMINATED | STOPPED | SUSPENDED) tpu delete "$name" ;;
      *) sleep "${TPU_VM_WAIT:-60}" ;;
    esac
  done
}

failed=0
while :; do
  ensure_machine
  status=0
  if [[ -z $stopping ]]; then
    started=$SECONDS
    { copy && on_all "$prepare"; } || status=$?
    if ((status == 0)) && [[ -z $stopping ]]; then
      interruptible on_all "$train" || status=$?
    fi
  fi
  if [[ -n $stopping ]]; then
    echo "tpu_vm: stopped. The machine is still there; to delete it:" >&2
    dry_run=1 tpu delete "$name" >&2
    exit 143
  fi
  if ((status == 0)); then
    echo "tpu_vm: training is done."
    [[ -n $keep ]] || tpu delete "$name"
    exit
  fi
  if [[ $(state) != READY ]]; then
    echo "tpu_vm: the machine was taken away; training goes on with another."
    failed=0
    continue
  fi
  # One that ran for a while is not the beginning of a row.
  ((SECONDS - started < 600)) || failed=0
  failed=$((failed + 1))
  echo "tpu_vm: ended with status $status; what the hosts printed is in $workdir/logs." >&2
  if ((status == 2 || failed > failures)); then
    echo "tpu_vm: giving up. The machine is still there; to delete it:" >&2
    dry_run=1 tpu delete "$name" >&2
    exit "$status"
  fi
done
