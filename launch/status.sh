#!/usr/bin/env bash
# Prints the state of the TPU and, if the host can be reached, of the job: "ACTIVE running", "SUSPENDED".
#
#   PROJECT=my-project ZONE=us-west4-a TPU_NAME=pav launch/status.sh
#
# The TPU: Google Cloud's name of its state, NOT_FOUND, or UNKNOWN (no answer). A queued resource may be ACTIVE while
# one of its slices has been preempted; this is printed as PREEMPTED. The job: running, the exit status of the last
# one, gone (none since the host started) or silent (no answer).
set -euo pipefail
# shellcheck source=launch/tpu_settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/tpu_settings.sh"
# shellcheck source=launch/gcloud.sh
source "$(dirname "${BASH_SOURCE[0]}")/gcloud.sh"

: "${PROJECT:?Google Cloud project}" "${ZONE:?zone, such as us-west4-a}" "${TPU_NAME:?name of the TPU}"
read_tpu_kind

dry="${DRY_RUN:-0}"
describe() {  # keeps "NAME STATE [NODE ...]" in $about
  local fields="name.basename(),state"
  [[ "$TPU_KIND" == tpu-vm ]] || fields='name.basename(),state.state,tpu.nodeSpec[].nodeId.list(separator=" ")'
  ask "$TPU_KIND" describe "$TPU_NAME" --format="value[separator=' ']($fields)" --verbosity=error || return
  [[ "$dry" == 1 ]] || about=$(answer_line "$TPU_NAME [A-Z_]+( [a-z0-9 -]+)?")
}

slices() {  # keeps the lines "NODE STATE" of this TPU's nodes in $states; others may have similar names
  local node line
  ask tpu-vm list --filter="name~(^|/)$TPU_NAME(-[0-9]+)?\$" --format="value[separator=' '](name.basename(),state)" \
    --verbosity=error || return
  states=""
  for node in $nodes; do
    line=$(answer_line "$node [A-Z_]+") || return
    states+="$line"$'\n'
  done
}

job() {  # keeps the answer of on_host.sh in $job
  ask "$TPU_KIND" ssh "$TPU_NAME" --worker=0 "${first_slice[@]}" \
    --command='if [ -d pav ]; then bash pav/launch/on_host.sh status; else echo gone; fi' || return
  [[ "$dry" == 1 ]] || job=$(answer_line "running|gone|[0-9]+")
}

unknown() { cat "$errors" >&2; echo UNKNOWN; exit; }

if [[ "$dry" == 1 ]]; then
  nodes=""
  describe
  [[ "$TPU_KIND" == tpu-vm ]] || slices
  job
  exit
fi
if ! repeat describe; then
  is_absent || unknown
  echo NOT_FOUND
  exit
fi
read -r _ state nodes <<<"$about"
if [[ "$state" == ACTIVE ]]; then
  repeat slices || unknown
  ! grep -qE ' (PREEMPTED|TERMINATED)$' <<<"$states" || { echo PREEMPTED; exit; }
fi
if [[ "$state" == ACTIVE || "$state" == READY ]]; then
  repeat job || { cat "$errors" >&2; job=silent; }
  state+=" $job"
fi
echo "$state"
