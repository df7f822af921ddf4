#!/usr/bin/env bash
# Runs a pav command until it has finished: creates the TPU if there is none, waits for it, sets it up, runs the
# command, and repeats this after a preemption or a host restart; the command then resumes from the work directory.
#
#   PROJECT=my-project ZONE=us-west4-a TPU_NAME=pav TPU_TYPE=v5litepod-16 CAPACITY=spot BUCKET=gs://my-bucket/pav \
#     launch/watch.sh pav run --config=configs/mini.py --workdir=gs://my-bucket/pav/runs/mini
#
# Exits with the command's exit status if that is 0 (done) or 2 (bad input), and with 1 after more than MAX_FAILURES
# failures. The TPU stays: launch/stop.sh deletes it. Ctrl-C stops this script, not the job.
set -euo pipefail
here="$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=launch/tpu_settings.sh
source "$here/tpu_settings.sh"

: "${PROJECT:?Google Cloud project}" "${ZONE:?zone, such as us-west4-a}" "${TPU_NAME:?name of the TPU}"
: "${CAPACITY:?spot, on-demand or reserved}" "${BUCKET:?gs:// folder for logs and compiled programs}"
[[ "${1:-}" == pav && $# -gt 1 ]] || refuse "give a pav command, such as: pav run --config=C --workdir=gs://..."
read_tpu_type
read_tpu_kind

failures=0 ours=no  # ours: this script has started the job on the hosts, or seen it running
say() { echo "$(date -u +%FT%TZ) $TPU_NAME: $*" >&2; }
fail() {
  say "$*"
  failures=$((failures + 1))
  ((failures <= ${MAX_FAILURES:-10})) || { say "giving up after $failures failures"; exit 1; }
}
recreate() { delete_tpu && "$here/create.sh"; }
start() { KEEP_TPU=1 "$here/stop.sh" && "$here/setup.sh" && "$here/run.sh" "$@"; }
restart() { KEEP_TPU=1 "$here/stop.sh" && "$here/run.sh" "$@"; }

if [[ "${DRY_RUN:-0}" == 1 ]]; then  # the query of every iteration, then the commands after a preemption
  "$here/status.sh"
  recreate
  start "$@"
  exit
fi

while true; do
  status=$("$here/status.sh") || status=UNKNOWN
  [[ "$ours" == yes || "$status" != *" "[0-9]* ]] || status="${status%% *} gone"  # it was an earlier job that ended
  case "$status" in
    "ACTIVE "[02] | "READY "[02])
      say "$status; the logs are in ${BUCKET%/}/logs/$TPU_NAME/"
      exit "${status##* }" ;;
    *" running") ours=yes; say "$status" ;;
    *" gone") say "starting"; { start "$@" && ours=yes; } || fail "the job could not be started" ;;
    *" "[0-9]*) fail "the job ended with exit status ${status##* }"; restart "$@" || say "it could not be restarted" ;;
    PREEMPTED | TERMINATED | SUSPENDED) say "$status, creating it again"; recreate || say "not created yet" ;;
    FAILED) fail "the queued resource failed"; recreate || say "not created yet" ;;
    NOT_FOUND) say "creating it"; "$here/create.sh" || say "not created yet" ;;
    STOPPED) say "it was stopped by hand: start it or delete it"; exit 1 ;;
    *) say "$status" ;;
  esac
  sleep "${POLL_SECONDS:-60}"
done
