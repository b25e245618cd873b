#!/usr/bin/env bash
# Trains on Cloud TPU VMs, through a queued resource.
#
#   bash launch/tpu_vm.sh COMMAND [--yes] [-- FLAGS]
#
#   all      create, setup, run and watch; then delete, whatever the outcome
#   create   ask for the machines, and wait until they are there
#   setup    copy the code of COMMIT to all workers and install its packages
#   run      start main.py with FLAGS on all workers; ends what ran before
#   watch    wait for the end; create all anew after a preemption
#   status   state of the machines and of main.py on each worker
#   logs     follow what the first worker prints
#   stop     ask main.py to save and end
#   delete   give the machines back
#
# Without --yes nothing is done: the commands are printed. FLAGS are those of
# main.py. Exits with 0 when the run is done, with the exit status of main.py
# where another attempt would end the same way, and with 1 otherwise.
set -euo pipefail

# --- Settings: environment variables. Must be given:
# Name of the queued resource, and of its TPU.
TPU_NAME=${TPU_NAME:-}
PROJECT=${PROJECT:-}
ZONE=${ZONE:-}
# Type and size: v4-N, v5p-N (N TensorCores, two a chip), v5litepod-N, v6e-N
# (N chips).
ACCELERATOR=${ACCELERATOR:-}

# --- May be given:
# Slices of that size, joined by the data-center network.
SLICES=${SLICES:-1}
# spot (cheap, taken away at any moment), on-demand or reserved.
PROVISIONING=${PROVISIONING:-spot}
# Image of the machines; empty: the one that fits the accelerator.
RUNTIME=${RUNTIME:-}
# More words for the creation, such as '--network=mine --internal-ips'.
CREATE_FLAGS=${CREATE_FLAGS:-}
# Commit that is trained; empty: that of the checkout, which must be clean.
COMMIT=${COMMIT:-}
# New attempts of watch, after a preemption or a failure, before it gives up.
MAX_RESTARTS=${MAX_RESTARTS:-20}
# Seconds between two looks at the machines.
POLL_SECONDS=${POLL_SECONDS:-60}
# Looks without an answer until the machines count as lost.
PATIENCE=${PATIENCE:-5}
# all: yes keeps the machines, and their cost, when the run has ended.
KEEP=${KEEP:-no}

root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=launch/commands.sh
. "$root/launch/commands.sh"

# Exit status of main.py that another attempt would only repeat: the
# configuration does not fit, the numbers broke down (docs/training.md).
FINAL=' 2 65 '
# What each worker is told; it lies in its home directory.
WORKER='bash meshwork/launch/tpu_worker.sh'

# Sets hosts (of one slice), chips (of one slice) and the default of RUNTIME.
describe_accelerator() {
  local kind=${ACCELERATOR%-*} size=${ACCELERATOR##*-} runtime
  case $kind in
    v4) runtime=tpu-ubuntu2204-base ;;
    v5p) runtime=v2-alpha-tpuv5 ;;
    v5litepod) runtime=v2-alpha-tpuv5-lite ;;
    v6e) runtime=v2-alpha-tpuv6e ;;
    tpu7x*) die "TPU7x has no TPU VMs; it is on GKE only: launch/gke.sh" ;;
    *) die "ACCELERATOR is '$ACCELERATOR'; give v4-N, v5litepod-N, v5p-N or v6e-N." ;;
  esac
  case $size in
    '' | 0* | *[!0-9]*) die "ACCELERATOR is '$ACCELERATOR'; N must be a number." ;;
  esac
  case $kind in
    v4 | v5p)
      # A TensorCore is half a chip, and a host has four chips.
      [ $((size % 8)) -eq 0 ] ||
        die "ACCELERATOR is $ACCELERATOR: $size TensorCores are no whole" \
          "hosts of 8."
      chips=$((size / 2)) hosts=$((size / 8))
      ;;
    *)
      # Up to eight chips share a host; larger slices have four on each.
      chips=$size hosts=1
      if [ "$size" -gt 8 ]; then
        [ $((size % 4)) -eq 0 ] ||
          die "ACCELERATOR is $ACCELERATOR: $size chips are no whole hosts of 4."
        hosts=$((size / 4))
      fi
      ;;
  esac
  RUNTIME=${RUNTIME:-$runtime}
}

# Runs or prints, by the function named first, a command of queued resources.
resources() {
  local how=$1 verb=$2
  shift 2
  "$how" gcloud compute tpus queued-resources "$verb" "$@" \
    "--project=$PROJECT" "--zone=$ZONE"
}

# The same for a command on all workers of all slices.
workers() {
  resources "$1" ssh "$TPU_NAME" --node=all --worker=all --quiet \
    "--command=$2"
}

first_worker() {
  resources act ssh "$TPU_NAME" --node=0 --worker=0 --quiet "--command=$1"
}

# --- The steps

request() {
  local how=()
  if [ "$SLICES" -eq 1 ]; then
    how=("--node-id=$TPU_NAME")
  else
    how=("--node-count=$SLICES" "--node-prefix=$TPU_NAME")
  fi
  case $PROVISIONING in
    spot | reserved) how+=("--$PROVISIONING") ;;
    on-demand) ;;
    *) die "PROVISIONING is '$PROVISIONING'; give spot, on-demand or reserved." ;;
  esac
  local more=()
  read -r -a more <<<"$CREATE_FLAGS" || true
  note "$SLICES x $ACCELERATOR, $PROVISIONING: $((SLICES * chips)) chips on" \
    "$((SLICES * hosts)) hosts"
  resources act create "$TPU_NAME" "--accelerator-type=$ACCELERATOR" \
    "--runtime-version=$RUNTIME" "${how[@]}" ${more[@]+"${more[@]}"}
}

# State of the queued resource; GONE where there is none of that name, UNKNOWN
# where there was no answer.
machines() {
  resources ask describe "$TPU_NAME" '--format=value(state.state)' ||
    if grep -q NOT_FOUND "$COMPLAINT"; then echo GONE; else echo UNKNOWN; fi
}

arrival() {
  if [ "$ACTING" = no ]; then
    note "Every $POLL_SECONDS s, until the state is ACTIVE:"
    machines
    return
  fi
  local state last=''
  while :; do
    state=$(machines)
    [ "$state" = "$last" ] || note "The machines: $state"
    last=$state
    case $state in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDING | SUSPENDED | GONE) break ;;
    esac
    sleep "$POLL_SECONDS"
  done
  note "The machines did not come. What is known about it:"
  resources act describe "$TPU_NAME" || true
  return 1
}

create() { request && arrival; }

setup() {
  local archive=${TMPDIR:-/tmp}/meshwork-$COMMIT.tar.gz code=meshwork-$COMMIT
  act git -C "$root" archive --format=tar.gz "--output=$archive" "$COMMIT" &&
    resources act scp "$archive" "$TPU_NAME:$code.tar.gz" --node=all \
      --worker=all --quiet &&
    workers act "mkdir -p $code && tar -xzf $code.tar.gz -C $code && ln -sfn $code meshwork && $WORKER setup"
}

run() { workers act "MESHWORK_COMMIT=$COMMIT $WORKER start $(quoted "${flags[@]}")"; }

# Prints how things stand: a word, and what is known beside it.
situation() {
  local state answers status
  state=$(machines)
  case $state in
    ACTIVE) ;;
    SUSPENDING | SUSPENDED | FAILED)
      echo "lost the machines are $state"
      return
      ;;
    *)
      echo "$state"
      return
      ;;
  esac
  answers=$(workers ask "$WORKER state") || {
    echo silent
    return
  }
  # A status that ends everything, or else any other, counts for all workers.
  for status in $FINAL '[1-9][0-9]*'; do
    if [[ $answers =~ meshwork-worker\ [^\ ]+\ exit\ ($status)($'\n'|$) ]]; then
      echo "failed ${BASH_REMATCH[1]}"
      return
    fi
  done
  case $(grep -c '^meshwork-worker [^ ]* exit 0$' <<<"$answers") in
    $((SLICES * hosts))) echo 'done' ;;
    *)
      case $answers in
        *' absent'*) echo absent ;;
        *) echo running ;;
      esac
      ;;
  esac
}

# Follows the run to its end, with new attempts where they help.
watch() {
  if [ "$ACTING" = no ]; then
    plan_watch
    return
  fi
  local word known last='' step restarts=0 silent=0
  while :; do
    read -r word known <<<"$(situation)"
    [ "$word" = "$last" ] || note "The run: $word${known:+ ($known)}"
    last=$word step=''
    [ "$word" = silent ] || silent=0
    case $word in
      done) return 0 ;;
      GONE) return 1 ;;
      lost) step=renew ;;
      absent) step=run known='main.py had not been started' ;;
      failed)
        if [[ $FINAL = *" $known "* ]]; then
          note "Another attempt would only repeat status $known. The log:"
          first_worker "$WORKER log" || true
          return "$known"
        fi
        step=run known="main.py ended with status $known"
        ;;
      silent)
        silent=$((silent + 1))
        if [ "$silent" -ge "$PATIENCE" ]; then
          step=renew silent=0 known="no word from the workers, $PATIENCE times"
        fi
        ;;
    esac
    if [ -n "$step" ]; then
      if [ "$restarts" -ge "$MAX_RESTARTS" ]; then
        note "Given up after $MAX_RESTARTS restarts (MAX_RESTARTS): $known."
        return 1
      fi
      restarts=$((restarts + 1)) last=''
      note "Restart $restarts of $MAX_RESTARTS: $known."
      "$step" || note 'That failed; looking again.'
    fi
    sleep "$POLL_SECONDS"
  done
}

plan_watch() {
  note "Every $POLL_SECONDS s, until all workers have ended with status 0:"
  machines
  workers ask "$WORKER state"
  note "After a failure of main.py, start it again. After a preemption, delete" \
    "the queued resource, and all of the above anew. $MAX_RESTARTS times at most."
}

# Spot machines cannot be started again, only made anew.
renew() { delete && create && setup && run; }

delete() { resources act delete "$TPU_NAME" --force --quiet; }

status() {
  machines
  workers act "$WORKER state"
}

# --- The command line

command_line 'all create setup run watch status logs stop delete' "$@"
required TPU_NAME PROJECT ZONE
case $command in
  all | create | setup | run | watch) required ACCELERATOR ;;
esac
[ -z "$ACCELERATOR" ] || describe_accelerator
for number in SLICES MAX_RESTARTS POLL_SECONDS PATIENCE; do
  whole_number "$number"
done
case $command in
  all | setup | run | watch)
    if [ -z "$COMMIT" ]; then
      [ -z "$(git -C "$root" status --porcelain --untracked-files=no)" ] ||
        die 'the checkout has changes that are in no commit, so the workers' \
          'would not get them. Commit them, or set COMMIT.'
      COMMIT=HEAD
    fi
    given=$COMMIT
    COMMIT=$(git -C "$root" rev-parse --short=12 --verify --quiet \
      "$given^{commit}") || die "COMMIT is '$given', which is no commit here."
    ;;
esac
case $command in
  all | run | watch) check_flags $((SLICES * hosts)) gs:// ;;
esac

if [ "$ACTING" = yes ]; then
  COMPLAINT=$(mktemp)
  trap 'rm -f "$COMPLAINT"' EXIT
  trap 'note "Interrupted. The run goes on, and the machines cost money: go on" \
    "with the command watch, or end it with delete."; exit 130' INT TERM
fi
announce

case $command in
  all)
    code=0
    # Where the request fails, what bears that name is not ours to delete.
    request
    { arrival && setup && run && watch; } || code=$?
    if [ "$KEEP" = yes ]; then
      note 'KEEP=yes: the machines are still there, and cost money.'
    else
      note 'The run has ended: give the machines back.'
      delete
    fi
    exit "$code"
    ;;
  logs) first_worker "$WORKER follow" ;;
  stop) workers act "$WORKER stop" ;;
  *) "$command" ;;
esac
