#!/usr/bin/env bash
# Stops the job, which saves its state first, and deletes the TPU. The work directory and the logs in the bucket stay.
#
#   PROJECT=my-project ZONE=us-west4-a TPU_NAME=pav launch/stop.sh
#
# KEEP_TPU=1 only stops the job; the TPU continues to cost money. Stop any running launch/watch.sh first, or it requests
# a new TPU. A host that does not answer does not keep the TPU from being deleted.
set -euo pipefail
# shellcheck source=launch/tpu_settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/tpu_settings.sh"
# shellcheck source=launch/gcloud.sh
source "$(dirname "${BASH_SOURCE[0]}")/gcloud.sh"

: "${PROJECT:?Google Cloud project}" "${ZONE:?zone, such as us-west4-a}" "${TPU_NAME:?name of the TPU}"
read_tpu_kind

code=0
on_every_host '[ ! -d pav ] || bash pav/launch/on_host.sh stop' || code=$?
((code == 0)) || echo "stop.sh: not every host has stopped its job" >&2
[[ "${KEEP_TPU:-0}" != 1 ]] || exit "$code"
delete_tpu || { echo "stop.sh: the TPU may not be deleted and may still cost money: run this again" >&2; exit 1; }
