#!/usr/bin/env bash
# Submits a pav command to the cluster through xpk. Kueue queues it. After a preemption the JobSet starts it again, up
# to MAX_RESTARTS times, and it resumes from the work directory. The log of every host is in Cloud Logging.
#
#   PROJECT=my-project ZONE=us-west4-a CLUSTER=pav WORKLOAD=mini TPU_TYPE=v5litepod-16 BUCKET=gs://my-bucket/pav \
#     launch/gke/run.sh pav run --config=configs/mini.py --workdir=gs://my-bucket/pav/runs/mini
#
# The last commit is put on top of BASE_IMAGE (python:3.12) and installed when a container starts. SECRETS names
# environment variables the job needs; xpk writes their values into the JobSet: anyone who can read JobSets sees them.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=launch/tpu_settings.sh
source "$here/../tpu_settings.sh"

: "${PROJECT:?Google Cloud project}" "${ZONE:?zone, such as us-west4-a}" "${CLUSTER:?name of the GKE cluster}"
: "${WORKLOAD:?name of this job}" "${BUCKET:?gs:// folder for compiled programs}"
[[ "${1:-}" == pav && $# -gt 1 ]] || refuse "give a pav command, such as: pav run --config=C --workdir=gs://..."
read_tpu_type
for name in ${SECRETS:-}; do
  [[ -n "${!name:-}" ]] || refuse "SECRETS names $name, which is not set"
done

scratch="${TMPDIR:-/tmp}/pav-$WORKLOAD"
if [[ "${DRY_RUN:-0}" != 1 ]]; then
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  mkdir "$scratch/source"
  printf '%s\n' "JAX_COMPILATION_CACHE_DIR=${BUCKET%/}/jax_cache" "LIBTPU_INIT_ARGS=$libtpu_init_args" >"$scratch/env"
  # for a name without a value xpk reads its own environment, so no secret is written to this file
  for name in ${SECRETS:-}; do echo "$name"; done >>"$scratch/env"
fi
run_or_print git -C "${here%/launch/gke}" archive --format=tar --output="$scratch/source.tar" HEAD
run_or_print tar -xf "$scratch/source.tar" -C "$scratch/source"
printf -v command ' %q' "$@"
# exec: pav receives SIGTERM and saves its state. Exit status 1 restarts (a host was lost), 2 (bad input) does not.
run_or_print xpk workload create --cluster="$CLUSTER" --workload="$WORKLOAD" --tpu-type="$TPU_TYPE" \
  --num-slices="${SLICES:-1}" --base-docker-image="${BASE_IMAGE:-python:3.12}" --script-dir="$scratch/source" \
  --env-file="$scratch/env" --max-restarts="${MAX_RESTARTS:-50}" --restart-on-exit-codes=1 \
  --termination-grace-period-seconds=300 --project="$PROJECT" --zone="$ZONE" \
  --command="pip install -q -e '.[tpu]' && exec$command"
