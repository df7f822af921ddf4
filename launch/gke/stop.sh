#!/usr/bin/env bash
# Stops a job on the cluster; with DELETE_CLUSTER=1 also deletes the cluster and everything else that runs on it.
#
#   PROJECT=my-project ZONE=us-west4-a CLUSTER=pav WORKLOAD=mini launch/gke/stop.sh
#
# A cluster costs money until it is deleted. The work directory stays.
set -euo pipefail
# shellcheck source=launch/tpu_settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/../tpu_settings.sh"

: "${PROJECT:?Google Cloud project}" "${ZONE:?zone, such as us-west4-a}" "${CLUSTER:?name of the GKE cluster}"
: "${WORKLOAD:?name of this job}"

run_or_print xpk workload delete --workload="$WORKLOAD" --cluster="$CLUSTER" --force --project="$PROJECT" --zone="$ZONE"
[[ "${DELETE_CLUSTER:-0}" != 1 ]] || run_or_print xpk cluster delete --cluster="$CLUSTER" --force --project="$PROJECT" \
  --zone="$ZONE"
