#!/usr/bin/env bash
# Makes the virtual environment that the other launch scripts use: .venv at the repository root.
#
#   bash launch/setup.sh [runtime | cuda | tpu | onnx | notebooks | docs | test]
#
# `runtime` (the default) installs the project and requirements.txt; any other set is that and its
# launch/requirements-SET.txt: `cuda` what JAX needs for NVIDIA GPUs (gigabytes; the driver must be
# there), `tpu` for Cloud TPUs, `onnx` what runs exported graphs, `notebooks` what runs notebooks,
# `docs` what builds the site, `test` the test tools and these three. Every version comes from
# launch/constraints.txt. Does nothing when what is asked for is there already.
# PYTHON names the Python to use; without it the first of python3, python3.13, ... that is new
# enough. pip's own configuration (proxy, certificates, mirror) is honoured.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/help.sh
source launch/help.sh
help_if_asked launch/setup.sh "$@"

wanted=${1:-runtime}
if [[ $wanted != runtime && ! -f launch/requirements-$wanted.txt ]]; then
  known=(launch/requirements-*.txt)
  known=("${known[@]#launch/requirements-}")
  echo "setup: '$wanted' given, but there are runtime ${known[*]%.txt}." >&2
  exit 2
fi

fail() {
  echo "setup: $*" >&2
  exit 1
}

# Prints interpreter, version and a digest of all that decides what .venv holds. The base
# interpreter, because the one found may be that of an activated .venv, which is about to be
# replaced; the folder, because a virtual environment does not survive being moved.
probe='
import ensurepip, hashlib, os, sys, venv
if not (3, 11) <= sys.version_info < (3, 15): sys.exit(1)
version = ".".join(map(str, sys.version_info[:3]))
digest = hashlib.sha256(f"{version} {os.getcwd()}".encode())
for name in sys.argv[1:]: digest.update(open(name, "rb").read())
print(getattr(sys, "_base_executable", sys.executable), version, digest.hexdigest(), sep="\n")
'
found=
candidates=(python3 python3.13 python3.12 python3.11)
[[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
for candidate in "${candidates[@]}"; do
  # Only a run tells: a version manager puts commands on PATH for versions that are not active.
  if found=$("$candidate" -I -c "$probe" requirements.txt launch/requirements-*.txt \
    launch/constraints.txt launch/setup.sh pyproject.toml setup.cfg 2> /dev/null); then
    break
  fi
  found=
done
[[ -n $found || -z ${PYTHON:-} ]] \
  || fail "no Python 3.11 to 3.14 with its venv module: PYTHON=$PYTHON"
[[ -n $found ]] || fail "no Python 3.11 to 3.14 with its venv module found; install one (Debian:" \
  "python3 and python3-venv) or name it: PYTHON=/path/to/python bash launch/..."
{ read -r python && read -r version && read -r digest; } <<< "$found"

stamp=.venv/installed
# The stamp holds the digest, then the sets installed.
installed() {
  [[ -x .venv/bin/python && -f $stamp && $(< "$stamp") == "$digest"*" $1"* ]]
}
installed "$wanted" && exit 0

# The lock is on the open file, so it goes when the last process of this installation does, also
# after a SIGKILL. Python takes it, as not every system has a flock command.
exec 9> .venv.lock
"$python" -I -c '
import fcntl, sys
try:
  fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
  print("setup: waiting for another installation into .venv", file=sys.stderr)
  fcntl.flock(9, fcntl.LOCK_EX)
'
installed "$wanted" && exit 0

# Sets that are to be there afterwards, and those that come now.
sets=runtime
new=runtime
if installed runtime; then
  sets=$(< "$stamp")
  sets=${sets#"$digest "}
  new=$wanted
elif [[ $wanted != runtime ]]; then
  new="runtime and $wanted"
fi
[[ $wanted == runtime ]] || sets+=" $wanted"
started=$SECONDS
printf 'setup: installing %s packages into .venv, Python %s (first time only) ... ' \
  "$new" "$version" >&2
rm -f "$stamp"
if [[ $new == runtime* ]]; then
  # From the start: what an interrupted installation or older pins left is not to be trusted.
  rm -rf .venv
  "$python" -I -m venv .venv || fail "could not make .venv with $python."
fi

# The project itself, too: in .venv, `dpoq` and `import dpoq_jax` work from any folder.
requirements=(-e .)
[[ $wanted == runtime ]] || requirements+=(-r "launch/requirements-$wanted.txt")
# As variables, the constraints also pin what builds the one source package; relative, as pip splits
# them at spaces. Python compiles what it imports: compiling everything here would take half as long
# as the rest.
log=.venv/install.log
PIP_CONSTRAINT=launch/constraints.txt PIP_BUILD_CONSTRAINT=launch/constraints.txt PIP_USER=0 \
  .venv/bin/python -I -m pip install --disable-pip-version-check --no-input --no-compile \
  --only-binary=:all: --no-binary=promise "${requirements[@]}" > "$log" 2>&1 || {
  echo "failed:" >&2
  tail -n 5 "$log" >&2
  fail "pip could not install the packages; the whole output is in $log."
}
echo "$digest $sets" > "$stamp"
echo "$((SECONDS - started)) s" >&2
