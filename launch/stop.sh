#!/usr/bin/env bash
# Stops the job, which saves its state first, and deletes the TPU. The work directory and the logs in the bucket stay.
#
#   PROJECT=my-project ZONE=us-west4-a TPU_NAME=pav launch/stop.sh
#
# KEEP_TPU=1 only stops the job; the TPU continues to cost money. Stop any running launch/watch.sh first, or it requests
# a new TPU.
set -euo pipefail
# shellcheck source=launch/tpu_settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/tpu_settings.sh"

: "${PROJECT:?Google Cloud project}" "${ZONE:?zone, such as us-west4-a}" "${TPU_NAME:?name of the TPU}"
read_tpu_kind

on_every_host '[ ! -d pav ] || bash pav/launch/on_host.sh stop' || echo "stop.sh: not every host answered" >&2
[[ "${KEEP_TPU:-0}" == 1 ]] || delete_tpu
