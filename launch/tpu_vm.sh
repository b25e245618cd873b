#!/usr/bin/env bash
# Trains on Cloud TPU VMs, through a queued resource.
#
#   bash launch/tpu_vm.sh COMMAND [--yes] [-- FLAGS]
#
#   all      create, watch, and delete, whatever the outcome
#   create   ask for the machines
#   watch    when they are there, run; again after a failure; make the machines
#            anew after a preemption; ends when the run is done
#   run      copy the code of COMMIT to all workers, install its packages, start
#            main.py with FLAGS; ends what ran before
#   status   state of the machines and of main.py on each worker
#   logs     follow what the first worker prints
#   stop     ask main.py to save and end; watch ends too
#   delete   give the machines back
#
# Without --yes nothing is done: the commands are printed. FLAGS are those of
# main.py. Exits with 0 when the run is done, with the exit status of main.py
# where another attempt would end the same way, with 143 after stop, and with 1
# otherwise.
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
# Words for the creation, such as '--reserved' or '--spot --network=mine';
# without --spot and --reserved: on demand.
CREATE_FLAGS=${CREATE_FLAGS---spot}
# Image of the machines; empty: the one that fits the accelerator.
RUNTIME=${RUNTIME:-}
# Commit that is trained; empty: that of the checkout, which must be clean.
COMMIT=${COMMIT:-}
# New attempts of watch, after a preemption or a failure, before it gives up.
MAX_RESTARTS=${MAX_RESTARTS:-20}
# Seconds between two looks at the machines.
POLL_SECONDS=${POLL_SECONDS:-60}
# Looks without an answer of the workers until the machines count as lost.
PATIENCE=${PATIENCE:-5}

root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=commands.sh
. "$root/launch/commands.sh"

# What each worker is told; it lies in its home directory.
WORKER='bash meshwork/launch/tpu_worker.sh'
# The same question to a worker that has no code yet.
STATE="$WORKER state || echo meshwork-worker absent"

# Sets hosts (of one slice), chips (of one slice) and the default of RUNTIME.
describe_accelerator() {
  local size=${ACCELERATOR##*-} cores=1 runtime
  case ${ACCELERATOR%-*} in
    v4) runtime=tpu-ubuntu2204-base cores=2 ;;
    v5p) runtime=v2-alpha-tpuv5 cores=2 ;;
    v5litepod) runtime=v2-alpha-tpuv5-lite ;;
    v6e) runtime=v2-alpha-tpuv6e ;;
    *)
      die "ACCELERATOR is '$ACCELERATOR'; give v4-N, v5litepod-N, v5p-N or" \
        'v6e-N. TPU7x is on GKE only: launch/gke.sh'
      ;;
  esac
  [[ $size =~ ^[1-9][0-9]*$ ]] ||
    die "ACCELERATOR is '$ACCELERATOR'; N must be a number."
  chips=$((size / cores)) hosts=$((size / cores / 4))
  # A host has four chips; up to eight of v5e and v6e share one.
  if [ "$cores" -eq 1 ] && [ "$size" -le 8 ]; then
    hosts=1
  elif [ $((size % (4 * cores))) -ne 0 ]; then
    die "ACCELERATOR is $ACCELERATOR: N must be a multiple of $((4 * cores))," \
      'for a host has four chips.'
  fi
  RUNTIME=${RUNTIME:-$runtime}
}

# Runs or prints, by the function named first, a command of queued resources.
resources() {
  local how=$1 verb=$2
  shift 2
  "$how" gcloud compute tpus queued-resources "$verb" "$@" \
    "--project=$PROJECT" "--zone=$ZONE"
}

# The same for a command on all workers of all slices. A worker that is lost
# while it is asked must not keep us waiting.
workers() {
  resources "$1" ssh "$TPU_NAME" --node=all --worker=all --quiet \
    --ssh-flag=-oServerAliveInterval=30 "--command=$2"
}

first_worker() {
  resources act ssh "$TPU_NAME" --node=0 --worker=0 --quiet "--command=$1"
}

# --- The steps

create() {
  local more=() node=("--node-id=$TPU_NAME")
  if [ "$SLICES" -gt 1 ]; then
    node=("--node-count=$SLICES" "--node-prefix=$TPU_NAME")
  fi
  read -r -a more <<<"$CREATE_FLAGS" || true
  note "$SLICES x $ACCELERATOR: $((SLICES * chips)) chips on" \
    "$((SLICES * hosts)) hosts"
  resources act create "$TPU_NAME" "--accelerator-type=$ACCELERATOR" \
    "--runtime-version=$RUNTIME" "${node[@]}" ${more[@]+"${more[@]}"}
}

run() {
  local archive=${TMPDIR:-/tmp}/meshwork-$COMMIT.tar.gz code=meshwork-$COMMIT
  act git -C "$root" archive --format=tar.gz "--output=$archive" "$COMMIT" &&
    resources act scp "$archive" "$TPU_NAME:$code.tar.gz" --node=all \
      --worker=all --quiet &&
    workers act "mkdir -p $code && tar -xzf $code.tar.gz -C $code && ln -sfn $code meshwork && $WORKER setup" &&
    workers act "MESHWORK_COMMIT=$COMMIT $WORKER start $(quoted "${flags[@]}")"
}

delete() { resources act delete "$TPU_NAME" --force --quiet; }

# State of the queued resource; GONE where there is none of that name, UNKNOWN
# where there was no answer.
machines() {
  resources ask describe "$TPU_NAME" '--format=value(state.state)' ||
    if grep -q NOT_FOUND "$COMPLAINT"; then echo GONE; else echo UNKNOWN; fi
}

# Prints how things stand: a word, and the exit status after 'failed'.
situation() {
  local state answers status
  state=$(machines)
  if [ "$state" != ACTIVE ]; then
    echo "$state"
    return
  fi
  answers=$(workers ask "$STATE") || {
    echo silent
    return
  }
  # What one worker says counts for all; they begin and end together.
  for state in stopped absent; do
    if [[ $answers = *" $state"* ]]; then
      echo "$state"
      return
    fi
  done
  # A status that ends everything comes first.
  for status in $FINAL '[1-9][0-9]*'; do
    if [[ $answers =~ \ exit\ ($status)($'\n'|$) ]]; then
      echo "failed ${BASH_REMATCH[1]}"
      return
    fi
  done
  if [ "$(grep -c ' exit 0$' <<<"$answers")" -eq $((SLICES * hosts)) ]; then
    echo 'done'
  else
    echo running
  fi
}

# Counts a new attempt and says why; fails when there were too many.
again() {
  if [ "$restarts" -ge "$MAX_RESTARTS" ]; then
    note "Given up after $MAX_RESTARTS restarts (MAX_RESTARTS): $*."
    return 1
  fi
  restarts=$((restarts + 1))
  note "Restart $restarts of $MAX_RESTARTS: $*."
}

# Follows the run to its end. A step that fails is taken again at the next look.
watch() {
  if [ "$ACTING" = no ]; then
    plan_watch
    return
  fi
  local word status last='' restarts=0 silent=0 renewing=no
  while :; do
    read -r word status <<<"$(situation)"
    [ "$word" = "$last" ] || note "$(date +%T) $word${status:+ $status}"
    last=$word
    [ "$word" = silent ] || silent=0
    case $word in
      done) return 0 ;;
      stopped) return 143 ;;
      absent) run || again 'the start failed' || return 1 ;;
      failed)
        if [[ $FINAL = *" $status "* ]]; then
          note "Another attempt would only repeat status $status. The log:"
          first_worker "$WORKER log" || true
          return "$status"
        fi
        again "main.py ended with status $status" || return 1
        run || note 'That failed.'
        ;;
      silent)
        silent=$((silent + 1))
        if [ "$silent" -ge "$PATIENCE" ]; then
          silent=0
          again "no word from the workers, $PATIENCE times" || return 1
          delete && renewing=yes
        fi
        ;;
      SUSPENDED | FAILED)
        # Such machines cannot be started again, only made anew.
        resources act describe "$TPU_NAME" || true
        again "the machines are $word" || return 1
        delete && renewing=yes
        ;;
      GONE)
        # Someone else deleted them, and had a reason.
        [ "$renewing" = yes ] || return 1
        if create; then renewing=no; else again 'not created' || return 1; fi
        ;;
    esac
    sleep "$POLL_SECONDS"
  done
}

plan_watch() {
  note "Every $POLL_SECONDS s, until main.py has ended with 0 on all workers:"
  machines
  note 'When that is ACTIVE:'
  workers ask "$STATE"
  note "When that is absent, and after a failure ($MAX_RESTARTS times at most):"
  run
  note 'After a preemption, when the machines are SUSPENDED:'
  delete
  create
}

status() {
  machines
  workers act "$STATE"
}

# --- The command line

command_line 'all create watch run status logs stop delete' "$@"
required TPU_NAME PROJECT ZONE
case $command in
  all | create | watch | run)
    required ACCELERATOR
    describe_accelerator
    ;;
esac
for number in SLICES MAX_RESTARTS POLL_SECONDS PATIENCE; do
  whole_number "$number"
done
case $command in
  all | watch | run)
    if [ -z "$COMMIT" ]; then
      [ -z "$(git -C "$root" status --porcelain --untracked-files=no)" ] ||
        die 'the checkout has changes that are in no commit, so the workers' \
          'would not get them. Commit them, or set COMMIT.'
      COMMIT=HEAD
    fi
    given=$COMMIT
    COMMIT=$(git -C "$root" rev-parse --short=12 --verify --quiet \
      "$given^{commit}") || die "COMMIT is '$given', which is no commit here."
    check_flags $((SLICES * hosts)) gs://
    ;;
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
    # Where the request fails, what bears that name is not ours to delete.
    create
    code=0
    watch || code=$?
    note 'The run has ended: give the machines back.'
    delete || {
      note 'That failed: they are still there, and cost money.'
      code=1
    }
    exit "$code"
    ;;
  logs) first_worker "$WORKER follow" ;;
  stop) workers act "$WORKER stop" ;;
  *) "$command" ;;
esac
