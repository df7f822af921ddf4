#!/usr/bin/env bash
# Requests the TPU from Google Cloud. Returns when a tpu-vm is ready, or when a queued resource has been queued.
#
#   PROJECT=my-project ZONE=us-west4-a TPU_NAME=pav TPU_TYPE=v5litepod-16 SLICES=2 CAPACITY=spot launch/create.sh
#
# TPU_KIND=tpu-vm requests one slice directly instead of queueing. CREATE_FLAGS holds any further flags of gcloud.
set -euo pipefail
# shellcheck source=launch/tpu_settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/tpu_settings.sh"
# shellcheck source=launch/gcloud.sh
source "$(dirname "${BASH_SOURCE[0]}")/gcloud.sh"

: "${PROJECT:?Google Cloud project}" "${ZONE:?zone, such as us-west4-a}" "${TPU_NAME:?name of the TPU}"
: "${CAPACITY:?spot, on-demand or reserved}"
slices="${SLICES:-1}"
[[ "$slices" =~ ^[1-9][0-9]*$ ]] || refuse "SLICES=$slices is not a number of slices"
read_tpu_type
read_tpu_kind

flags=(--accelerator-type="$TPU_TYPE")
case "$TPU_KIND" in
  tpu-vm)
    [[ "$slices" == 1 ]] || refuse "SLICES=$slices needs TPU_KIND=queued-resources"
    flags+=(--version="$runtime_version") ;;
  queued-resources)
    flags+=(--runtime-version="$runtime_version")
    if [[ "$slices" == 1 ]]; then
      flags+=(--node-id="$TPU_NAME")
    else
      flags+=(--node-count="$slices" --node-prefix="$TPU_NAME")
    fi ;;
esac
case "$CAPACITY" in
  spot) flags+=(--spot) ;;
  reserved) flags+=(--reserved) ;;
  on-demand) ;;
  *) refuse "CAPACITY=$CAPACITY is none of spot, on-demand, reserved" ;;
esac
read -ra more <<<"${CREATE_FLAGS:-}"
act create "$TPU_NAME" "${flags[@]}" "${more[@]}"
