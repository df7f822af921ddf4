#!/usr/bin/env bash
# Creates a GKE cluster with TPU node pools through xpk (pip install xpk). Run it again with another SLICES to resize.
#
#   PROJECT=my-project ZONE=us-west4-a CLUSTER=pav TPU_TYPE=v5litepod-16 SLICES=2 CAPACITY=spot launch/gke/create.sh
#
# CAPACITY=reserved needs RESERVATION, its name. CREATE_FLAGS holds any further flags of `xpk cluster create`.
set -euo pipefail
# shellcheck source=launch/tpu_settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/../tpu_settings.sh"

: "${PROJECT:?Google Cloud project}" "${ZONE:?zone, such as us-west4-a}" "${CLUSTER:?name of the GKE cluster}"
: "${CAPACITY:?spot, on-demand or reserved}"
read_tpu_type

case "$CAPACITY" in
  spot | on-demand) capacity=(--"$CAPACITY") ;;
  reserved) capacity=(--reservation="${RESERVATION:?name of the reservation}") ;;
  *) refuse "CAPACITY=$CAPACITY is none of spot, on-demand, reserved" ;;
esac
read -ra more <<<"${CREATE_FLAGS:-}"
run_or_print xpk cluster create --cluster="$CLUSTER" --tpu-type="$TPU_TYPE" --num-slices="${SLICES:-1}" \
  "${capacity[@]}" --project="$PROJECT" --zone="$ZONE" "${more[@]}"
