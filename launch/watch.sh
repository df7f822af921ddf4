#!/usr/bin/env bash
# Runs a pav command until it has finished: creates the TPU if there is none, waits for it, sets it up, runs the
# command, and repeats this after a preemption or a host restart; the command then resumes from the work directory.
#
#   PROJECT=my-project ZONE=us-west4-a TPU_NAME=pav TPU_TYPE=v5litepod-16 CAPACITY=spot BUCKET=gs://my-bucket/pav \
#     launch/watch.sh pav run --config=configs/mini.py --workdir=gs://my-bucket/pav/runs/mini
#
# Exits with the command's exit status if that is 0 (done), 2 (bad input) or 3 (budget), and with 1 after more than
# MAX_FAILURES failures. The TPU stays: launch/stop.sh deletes it. Ctrl-C stops this script, not the job.
set -euo pipefail
shopt -s extglob
here="$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=launch/tpu_settings.sh
source "$here/tpu_settings.sh"
# shellcheck source=launch/gcloud.sh
source "$here/gcloud.sh"

: "${PROJECT:?Google Cloud project}" "${ZONE:?zone, such as us-west4-a}" "${TPU_NAME:?name of the TPU}"
: "${CAPACITY:?spot, on-demand or reserved}" "${BUCKET:?gs:// folder for logs and compiled programs}"
[[ "${1:-}" == pav && $# -gt 1 ]] || refuse "give a pav command, such as: pav run --config=C --workdir=gs://..."
read_tpu_type
read_tpu_kind

failures=0
ours=no    # this script has started the job on the hosts, or seen it running
counted=no  # the queued resource has failed, and this was counted
say() { echo "$(date -u +%FT%TZ) $TPU_NAME: $*" >&2; }
fail() {
  say "$*"
  failures=$((failures + 1))
  ((failures <= ${MAX_FAILURES:-10})) || { say "giving up after $failures failures"; exit 1; }
}
recreate() {
  ours=no
  { delete_tpu && "$here/create.sh"; } || { say "not created yet"; return 1; }
}
launch() {  # full (stop, setup, run) or again (stop, run), COMMAND ...
  local code=0
  ours=no
  KEEP_TPU=1 "$here/stop.sh" || code=$?
  ((code)) || [[ "$1" == again ]] || "$here/setup.sh" || code=$?
  ((code)) || "$here/run.sh" "${@:2}" || code=$?
  case "$code" in
    0) ours=yes ;;
    "$NO_ANSWER") say "not every host answered; trying again" ;;  # no failure of the job, so it is not counted
    *) fail "the job could not be started" ;;
  esac
}

if [[ "${DRY_RUN:-0}" == 1 ]]; then  # the query of every iteration, then the commands after a preemption
  "$here/status.sh"
  recreate
  launch full "$@"
  exit
fi

on_end() {  # EXIT_STATUS COMMAND ...
  if [[ "$ours" == no ]]; then
    say "an earlier job has ended, starting"
    launch full "${@:2}"
  elif (($1 == 0 || $1 == 2 || $1 == 3)); then
    say "exit status $1; the logs are in ${BUCKET%/}/logs/$TPU_NAME/"
    exit "$1"
  else
    fail "the job ended with exit status $1"
    launch again "${@:2}"
  fi
}

while true; do
  status=$("$here/status.sh") || status=UNKNOWN
  case "$status" in
    ACTIVE\ +([0-9]) | READY\ +([0-9])) on_end "${status#* }" "$@" ;;
    "ACTIVE running" | "READY running") ours=yes; say "$status" ;;
    "ACTIVE gone" | "READY gone") say "starting"; launch full "$@" ;;
    PREEMPTED | TERMINATED | SUSPENDED) say "$status, creating it again"; recreate || true ;;
    FAILED)
      [[ "$counted" == yes ]] || fail "the queued resource failed"
      counted=yes
      ! recreate || counted=no ;;
    NOT_FOUND) say "creating it"; "$here/create.sh" || say "not created yet" ;;
    STOPPED) say "it was stopped by hand: start it or delete it"; exit 1 ;;
    *) say "$status" ;;
  esac
  sleep "${POLL_SECONDS:-60}"
done
