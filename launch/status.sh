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

: "${PROJECT:?Google Cloud project}" "${ZONE:?zone, such as us-west4-a}" "${TPU_NAME:?name of the TPU}"
read_tpu_kind

describe() {
  local field=state
  [[ "$TPU_KIND" == tpu-vm ]] || field=state.state
  tpu describe "$TPU_NAME" --format="value($field)" --verbosity=error
}

slices() {
  run_or_print gcloud compute tpus tpu-vm list --filter="name~(^|/)$TPU_NAME(-[0-9]+)?\$" --format="value(state)" \
    --zone="$ZONE" --project="$PROJECT" --verbosity=error
}

job() { on_first_host 'if [ -d pav ]; then bash pav/launch/on_host.sh status; else echo gone; fi'; }

if [[ "${DRY_RUN:-0}" == 1 ]]; then
  describe
  [[ "$TPU_KIND" == tpu-vm ]] || slices
  job
elif ! state=$(describe 2>&1); then
  [[ "$state" != *NOT_FOUND* ]] || { echo NOT_FOUND; exit; }
  echo "$state" >&2
  echo UNKNOWN
elif [[ "$state" == ACTIVE ]] && slices | grep -E '^(PREEMPTED|TERMINATED)$' >/dev/null; then
  echo PREEMPTED
elif [[ "$state" == ACTIVE || "$state" == READY ]]; then
  answer=$(job | tail -n 1) || answer=""
  echo "$state ${answer:-silent}"
else
  echo "$state"
fi
