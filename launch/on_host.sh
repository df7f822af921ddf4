#!/usr/bin/env bash
# Runs on one TPU host; the other scripts call it over ssh, from the home directory. To run it by hand on a host:
#
#   TPU_NAME=pav TPU_TYPE=v5litepod-16 BUCKET=gs://my-bucket/pav bash pav/launch/on_host.sh start run --config=C
#
#   install     install Python 3.12, pav and JAX for TPU in ~/pav/.venv (the host's own Python may be too old for pav)
#   start ARGS  run `pav ARGS` in the tmux session "pav"; it may be repeated
#   job ARGS    what that session runs: `pav ARGS`, with its log in ~/pav_state/HOST.log and, copied every minute, in
#               BUCKET/logs/TPU_NAME/
#   status      print running, the exit status of the last job, or gone (no job yet, or the host was restarted)
#   stop        send SIGTERM, so that the job saves its state; SIGKILL after five minutes (STOP_SECONDS)
set -euo pipefail
state=~/pav_state
mkdir -p "$state"

job() {
  # shellcheck source=launch/tpu_settings.sh
  source ~/pav/launch/tpu_settings.sh
  : "${TPU_NAME:?name of the TPU}" "${BUCKET:?gs:// folder for logs and compiled programs}"
  read_tpu_type
  # shellcheck source=/dev/null
  [[ ! -f ~/pav_secrets ]] || source ~/pav_secrets
  export JAX_COMPILATION_CACHE_DIR="$BUCKET/jax_cache" LIBTPU_INIT_ARGS="$libtpu_init_args"
  local log second code=0 pid
  log="$state/$(hostname).log"
  copy_log() {  # a copy that fails or takes too long (COPY_SECONDS) does not concern the job
    timeout --kill-after=10 "${COPY_SECONDS:-60}" gcloud storage cp "$log" "$BUCKET/logs/$TPU_NAME/" >/dev/null 2>&1 \
      || true
  }
  cd ~/pav
  echo "$(date -u +%FT%TZ) pav $*" >>"$log"
  .venv/bin/pav "$@" >>"$log" 2>&1 9>&- &  # without the lock, which ends with this shell
  pid=$!
  echo "$pid" >"$state/pid"
  for ((second = 1; ; second++)); do
    sleep 1
    kill -0 "$pid" 2>/dev/null || break
    ((second % 60)) || copy_log
  done
  wait "$pid" || code=$?
  echo "$(date -u +%FT%TZ) exit status $code" >>"$log"
  copy_log
  echo "$code" >"$state/exit_status.part"
  mv "$state/exit_status.part" "$state/exit_status"
}

# The job holds a lock too, because tmux does not find its sessions when something has cleaned /tmp.
is_running() { tmux has-session -t =pav 2>/dev/null || ! flock --nonblock "$state/lock" true; }

verb="${1:?install, start, job, status or stop}"
# the other scripts tell by this line that the host has answered, not the connection failed
trap '(($? == 0)) || echo "on_host.sh: $verb failed on $(hostname)" >&2' EXIT
case "$verb" in
  install)
    command -v tmux >/dev/null || { sudo apt-get update -q && sudo apt-get install -qy tmux; }
    [[ -x ~/.local/bin/uv ]] || curl -LsSf https://astral.sh/uv/install.sh | sh
    cd ~/pav
    ~/.local/bin/uv venv --python 3.12 --allow-existing .venv
    ~/.local/bin/uv pip install --python .venv/bin/python -e ".[tpu]" ;;
  start)
    printf -v command '%q ' "${@:2}"
    if is_running; then
      [[ "$(cat "$state/command" 2>/dev/null)" != "$command" ]] || { echo "already running on $(hostname)"; exit 0; }
      echo "on_host.sh: another job is already running on $(hostname)" >&2
      exit 1
    fi
    rm -f "$state/exit_status" "$state/pid"
    echo "$command" >"$state/command"
    tmux new-session -d -s pav env PAV_DISTRIBUTED=1 TPU_NAME="$TPU_NAME" TPU_TYPE="$TPU_TYPE" BUCKET="$BUCKET" \
      bash ~/pav/launch/on_host.sh job "${@:2}" ;;
  job)
    exec 9>"$state/lock"
    flock --nonblock 9
    job "${@:2}" ;;
  status)
    if [[ -s "$state/exit_status" ]]; then cat "$state/exit_status"
    elif is_running; then echo running
    else echo gone
    fi ;;
  stop)
    until [[ -s "$state/pid" ]]; do is_running || exit 0; sleep 1; done
    is_running || exit 0
    kill -TERM "$(cat "$state/pid")" || true
    for ((second = 0; second < ${STOP_SECONDS:-300}; second++)); do is_running || exit 0; sleep 1; done
    kill -KILL "$(cat "$state/pid")" || true ;;
  *) echo "on_host.sh: $1 is none of install, start, job, status, stop" >&2; exit 2 ;;
esac
