# shellcheck shell=bash disable=SC2034
# Sourced by the scripts for TPUs, not executable: one interface to gcloud's two kinds of TPU resource (tpu-vm and
# queued-resources), which may fail, hang or answer only in part.
#
# Every call has a time limit and no terminal as its input, and is repeated where that is safe. Standard error is kept
# apart from the answer, of which a line counts when it has the expected form and its newline. The functions return
# $NO_ANSWER when nothing is known (no network, no permission, no host), and 1 when a host's own command failed.
NO_ANSWER=75
if [[ "${DRY_RUN:-0}" != 1 ]]; then
  command -v timeout >/dev/null || refuse "needs the command timeout, of GNU coreutils"
  scratch=$(mktemp -d)  # readable by its owner only
  trap 'rm -rf "$scratch"' EXIT
  answer=$scratch/answer errors=$scratch/errors
  : >"$errors"
fi

read_tpu_kind() {  # TPU_KIND, and what only one kind has
  TPU_KIND="${TPU_KIND:-queued-resources}"
  case "$TPU_KIND" in
    tpu-vm) collection=nodes every_slice=() first_slice=() with_nodes=() ;;
    queued-resources)
      collection=queuedResources every_slice=(--node=all) first_slice=(--node=0) with_nodes=(--force) ;;
    *) refuse "TPU_KIND=$TPU_KIND is neither tpu-vm nor queued-resources" ;;
  esac
}

limit_time() {  # SECONDS COMMAND ...: ends the command and its children after that time
  local pid signal code=0
  timeout --kill-after=10 "$@" </dev/null &
  pid=$!
  # shellcheck disable=SC2064  # the signal ends this command too, which has a process group of its own
  for signal in INT TERM; do trap "kill $pid; trap - $signal; kill -$signal \$BASHPID" "$signal"; done
  wait "$pid" || code=$?
  trap - INT TERM
  ((code != 124 && code != 137)) || echo "no answer within $1 seconds: ${*:2:5}" >&2
  return "$code"
}

gcloud_tpus() {  # SECONDS KIND VERB ...
  local command=(gcloud compute tpus "${@:2}" --zone="$ZONE" --project="$PROJECT")
  if [[ "${DRY_RUN:-0}" == 1 ]]; then print_command "${command[@]}"; else limit_time "$1" "${command[@]}"; fi
}

ask() {  # KIND VERB ...: a query, whose standard output is kept in $answer
  local command=(gcloud_tpus "${QUERY_SECONDS:-180}" "$@")
  if [[ "${DRY_RUN:-0}" == 1 ]]; then "${command[@]}"; else "${command[@]}" >"$answer" 2>"$errors"; fi
}

act() {  # VERB ...: a change; what gcloud and the hosts say is shown
  local command=(gcloud_tpus "${ACTION_SECONDS:-1800}" "$TPU_KIND" "$@")
  [[ "${DRY_RUN:-0}" != 1 ]] || { "${command[@]}"; return; }
  "${command[@]}" 2>&1 | tee "$errors" >&2 || return
  ! grep -q "Could not prepare all" "$errors"  # gcloud left slices out, which it takes for success
}

answer_line() {  # PATTERN: prints the one complete line of the answer that matches it; it must be the only one
  local line lines=()
  while IFS= read -r line; do [[ ! "$line" =~ ^($1)$ ]] || lines+=("$line"); done <"$answer"
  ((${#lines[@]} == 1)) || { echo "not a complete answer of gcloud: $(head -c 200 "$answer")" >>"$errors"; return 1; }
  echo "${lines[0]}"
}

is_absent() {  # gcloud's last error is that this TPU does not exist; a project or zone that does not is another
  grep -q "NOT_FOUND: Resource 'projects/[^/']*/locations/$ZONE/$collection/$TPU_NAME' was not found" "$errors"
}

repeat() {  # COMMAND ...: up to three times, until it succeeds or the reason of its failure is certain
  [[ "${DRY_RUN:-0}" != 1 ]] || { "$@"; return; }
  local attempt
  for attempt in 1 2 3; do
    ! "$@" || return 0
    ! grep -q '^on_host.sh: .* failed on ' "$errors" || return 1
    ! is_absent || return "$NO_ANSWER"
    ((attempt == 3)) || sleep $((attempt * ${RETRY_SECONDS:-10}))
  done
  return "$NO_ANSWER"
}

on_every_host() { repeat act ssh "$TPU_NAME" --worker=all "${every_slice[@]}" --command="$1"; }
to_every_host() { repeat act scp "$1" "$TPU_NAME:$2" --worker=all "${every_slice[@]}" "${@:3}"; }
delete_tpu() { repeat delete_and_check || is_absent; }

delete_and_check() {  # success alone does not show that the TPU costs nothing any more
  act delete "$TPU_NAME" --quiet "${with_nodes[@]}" || return
  ! ask "$TPU_KIND" describe "$TPU_NAME" --verbosity=error || [[ "${DRY_RUN:-0}" == 1 ]] || return 1
  [[ "${DRY_RUN:-0}" == 1 ]] || is_absent
}
