#!/usr/bin/env bash
# What launch/tpu_vm.sh does on each worker; there is no need to call it by hand.
#
#   setup        install the pinned packages
#   start FLAGS  start main.py with FLAGS, beyond the end of the connection
#   state        print: meshwork-worker HOST running | stopped | exit STATUS |
#                absent
#   log, follow  print the end of the log; and go on as it grows
#   stop         ask main.py to save and end, and wait
set -euo pipefail
cd "$(dirname "$0")/.."

# Seconds that a stopped run has to save.
GRACE_SECONDS=${GRACE_SECONDS:-300}
# Numbers of the processes, exit status, log; they outlive a new copy of the code.
notes=$HOME/.meshwork
mkdir -p "$notes"

setup() {
  PYTHON=$(command -v python3.11 || command -v python3.12 ||
    command -v python3.13 || true)
  if [ -z "$PYTHON" ]; then
    python3 -m pip install --user --quiet --require-hashes -r requirements/uv.txt
    python3 -m uv python install 3.11
    PYTHON=$(python3 -m uv python find 3.11)
  fi
  export PYTHON
  . scripts/env.sh tpu
}

# Whether the process that waits for main.py is there. After a reboot its number
# may be another's.
supervised() {
  grep -qa tpu_worker.sh \
    "/proc/$(cat "$notes/supervisor" 2>/dev/null)/cmdline" 2>/dev/null
}

start() {
  end
  rm -f "$notes/exit" "$notes/main" "$notes/stopped"
  if [ ! -e .venv/bin/activate ]; then
    echo 'There are no packages here: do the setup first.' >&2
    exit 64
  fi
  setsid bash launch/tpu_worker.sh supervise "$@" \
    >>"$notes/log" 2>&1 </dev/null &
  echo $! >"$notes/supervisor"
}

supervise() {
  local code=0
  . .venv/bin/activate
  echo "--- $(date -u +%FT%TZ) main.py $*"
  python main.py "$@" &
  echo $! >"$notes/main"
  wait $! || code=$?
  echo "--- $(date -u +%FT%TZ) ended with status $code"
  echo "$code" >"$notes/exit"
}

state() {
  local word=absent
  if supervised; then
    word=running
  elif [ -e "$notes/stopped" ]; then
    word=stopped
  elif [ -e "$notes/exit" ]; then
    word="exit $(cat "$notes/exit")"
  elif [ -e "$notes/supervisor" ]; then
    # Killed: the machine was switched off and on.
    word='exit 137'
  fi
  echo "meshwork-worker $(hostname) $word"
}

# The note comes first: the other hosts end as soon as one of them is told to.
stop() {
  supervised || return 0
  touch "$notes/stopped"
  end
}

# One signal asks main.py to save; a second would end it before it has.
end() {
  local deadline
  while supervised && [ ! -e "$notes/main" ]; do sleep 0.1; done
  supervised || return 0
  kill -TERM "$(cat "$notes/main")" || true
  deadline=$((SECONDS + GRACE_SECONDS))
  while supervised; do
    sleep 0.1
    if [ "$SECONDS" -gt "$deadline" ]; then
      kill -KILL "$(cat "$notes/main")" || true
      deadline=$((SECONDS + GRACE_SECONDS))
    fi
  done
}

case ${1:-} in
  setup | start | supervise | state | stop) "$@" ;;
  log) tail -n 50 "$notes/log" ;;
  follow) tail -n 50 -F "$notes/log" ;;
  *)
    echo "tpu_worker.sh: '${1:-}' is no command" >&2
    exit 64
    ;;
esac
