#!/usr/bin/env bash
# Trains on TPU slices of GKE, as a JobSet (launch/gke_jobset.yaml).
#
#   bash launch/gke.sh COMMAND [--yes] [-- FLAGS]
#
#   image    build the image of COMMIT, and push it
#   create   start main.py with FLAGS on all hosts of all slices
#   status   the JobSet and its pods
#   logs     follow what the first host prints
#   delete   end the run
#
# Without --yes nothing is done: the commands, and the manifest, are printed.
# FLAGS are those of main.py. kubectl must point at a cluster with JobSet 0.6 or
# newer and node pools of the accelerator and topology.
set -euo pipefail

# --- Settings: environment variables. Must be given:
# Name of the run, in lower-case letters, digits and -.
RUN_NAME=${RUN_NAME:-}
# v4, v5e, v5p, v6e or tpu7x.
ACCELERATOR=${ACCELERATOR:-}
# Chips of a slice along each axis, such as 4x4 (v5e, v6e) or 2x2x4 (others).
TOPOLOGY=${TOPOLOGY:-}
# The image, such as REGION-docker.pkg.dev/PROJECT/REPOSITORY/meshwork:COMMIT.
IMAGE=${IMAGE:-}

# --- May be given:
# Slices of that topology, joined by the data-center network; GKE joins slices of
# several hosts only.
SLICES=${SLICES:-1}
# Chips of a host; empty: 1 or 8 for slices of v5e and v6e of that size, else 4.
CHIPS=${CHIPS:-}
# yes: only on spot nodes.
SPOT=${SPOT:-no}
NAMESPACE=${NAMESPACE:-default}
# Kubernetes service account that may read and write the bucket.
SERVICE_ACCOUNT=${SERVICE_ACCOUNT:-}
# New attempts, after a preemption or a failure, before the run has failed.
MAX_RESTARTS=${MAX_RESTARTS:-20}
# Seconds that main.py has to save when its pod is to go.
GRACE_SECONDS=${GRACE_SECONDS:-300}
# Commit of the image; empty: that of the checkout.
COMMIT=${COMMIT:-HEAD}

root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=commands.sh
. "$root/launch/commands.sh"

# Sets HOSTS (of a slice), CHIPS (of a host) and the label of the nodes.
# shellcheck disable=SC2034  # manifest finds settings by their names
describe_slice() {
  local axes chips=1 size
  case $ACCELERATOR in
    v4) ACCELERATOR_LABEL=tpu-v4-podslice axes=3 ;;
    v5e) ACCELERATOR_LABEL=tpu-v5-lite-podslice axes=2 ;;
    v5p) ACCELERATOR_LABEL=tpu-v5p-slice axes=3 ;;
    v6e) ACCELERATOR_LABEL=tpu-v6e-slice axes=2 ;;
    tpu7x) ACCELERATOR_LABEL=tpu7x axes=3 ;;
    *) die "ACCELERATOR is '$ACCELERATOR'; give v4, v5e, v5p, v6e or tpu7x." ;;
  esac
  local pattern='^[1-9][0-9]*(x[1-9][0-9]*)*$'
  [[ $TOPOLOGY =~ $pattern && $(tr -cd x <<<"$TOPOLOGY" | wc -c) -eq $((axes - 1)) ]] ||
    die "TOPOLOGY is '$TOPOLOGY'; $ACCELERATOR has $axes axes, such as" \
      "$([ "$axes" -eq 2 ] && echo 4x4 || echo 2x2x4)."
  for size in ${TOPOLOGY//x/ }; do chips=$((chips * size)); done
  if [ -z "$CHIPS" ]; then
    CHIPS=4
    if [ "$axes" -eq 2 ] && { [ "$chips" -eq 1 ] || [ "$chips" -eq 8 ]; }; then
      CHIPS=$chips
    fi
  fi
  whole_number CHIPS
  { [ "$CHIPS" -gt 0 ] && [ $((chips % CHIPS)) -eq 0 ]; } ||
    die "TOPOLOGY $TOPOLOGY has $chips chips, which are no whole hosts of" \
      "CHIPS = $CHIPS."
  HOSTS=$((chips / CHIPS))
}

# A string of YAML, whatever it holds; Kubernetes reads \$(NAME) in arguments
# unless the \$ is doubled.
yaml() {
  local text=$1
  case $text in *$'\n'*) die "a flag has two lines: '$text'" ;; esac
  text=${text//\\/\\\\}
  text=${text//\"/\\\"}
  text=${text//\$(/\$\$(}
  printf '"%s"' "$text"
}

# Fills the template in; its head is about itself.
# shellcheck disable=SC2034
manifest() {
  local line name value
  SPOT_LABEL=''
  if [ "$SPOT" = yes ]; then SPOT_LABEL=true; fi
  FLAGS=''
  for value in "${flags[@]}"; do FLAGS="$FLAGS${FLAGS:+, }$(yaml "$value")"; done
  FLAGS="[$FLAGS]"
  while IFS= read -r line; do
    case $line in '#'*) continue ;; esac
    if [[ $line =~ ^[^#]*@([A-Z_]+)@$ ]]; then
      name=${BASH_REMATCH[1]} value=${!BASH_REMATCH[1]}
      [ -n "$value" ] || continue
      case $name in
        # Labels and names are strings, even where they look like something else.
        *_LABEL | RUN_NAME | NAMESPACE | SERVICE_ACCOUNT | TOPOLOGY | IMAGE)
          value=$(yaml "$value")
          ;;
      esac
      line=${line%"@$name@"}$value
    fi
    printf '%s\n' "$line"
  done <"$root/launch/gke_jobset.yaml"
}

kubectl_in() { act kubectl "--namespace=$NAMESPACE" "$@"; }

create() {
  note "$SLICES x $ACCELERATOR $TOPOLOGY: $((SLICES * HOSTS * CHIPS)) chips," \
    "a pod on each of $((SLICES * HOSTS)) hosts"
  if [ "$ACTING" = yes ]; then
    manifest | kubectl_in create -f -
  else
    manifest
    note 'The manifest above goes to:'
    kubectl_in create -f -
  fi
}

image() {
  COMMIT=$(git -C "$root" rev-parse --short=12 --verify "$COMMIT^{commit}")
  # TPU hosts are of this kind, whatever this machine is.
  local build=(docker build --platform=linux/amd64 -f launch/Dockerfile
    --build-arg "COMMIT=$COMMIT" -t "$IMAGE" -)
  if [ "$ACTING" = yes ]; then
    git -C "$root" archive "$COMMIT" | act "${build[@]}"
  else
    echo "$(quoted git -C "$root" archive "$COMMIT") | $(quoted "${build[@]}")"
  fi
  act docker push "$IMAGE"
}

status() {
  kubectl_in get jobset "$RUN_NAME"
  kubectl_in get pods "--selector=jobset.sigs.k8s.io/jobset-name=$RUN_NAME" \
    -o wide
}

logs() {
  local first=jobset.sigs.k8s.io/job-index=0
  first=$first,batch.kubernetes.io/job-completion-index=0
  kubectl_in logs --follow --tail=50 \
    "--selector=jobset.sigs.k8s.io/jobset-name=$RUN_NAME,$first"
}

delete() { kubectl_in delete jobset "$RUN_NAME"; }

# --- The command line

command_line 'image create status logs delete' "$@"
case $command in
  image) required IMAGE ;;
  create)
    required RUN_NAME ACCELERATOR TOPOLOGY IMAGE
    # Kubernetes appends to it, and allows 63 characters in all.
    [[ $RUN_NAME =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] ||
      die "RUN_NAME is '$RUN_NAME'; give at most 40 lower-case letters, digits" \
        "and -, the first a letter."
    for number in SLICES MAX_RESTARTS GRACE_SECONDS; do
      whole_number "$number"
    done
    describe_slice
    check_flags $((SLICES * HOSTS)) gs://
    ;;
  *) required RUN_NAME ;;
esac
announce
"$command"
