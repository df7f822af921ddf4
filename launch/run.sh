#!/usr/bin/env bash
# Starts a pav command on every host, each in a tmux session that outlives this connection, and returns.
#
#   PROJECT=my-project ZONE=us-west4-a TPU_NAME=pav TPU_TYPE=v5litepod-16 BUCKET=gs://my-bucket/pav \
#     launch/run.sh pav run --config=configs/mini.py --workdir=gs://my-bucket/pav/runs/mini
#
# SECRETS="OPENAI_API_KEY" names environment variables the job needs. Their values travel in a file that only its owner
# can read, never in a command line.
set -euo pipefail
# shellcheck source=launch/tpu_settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/tpu_settings.sh"
# shellcheck source=launch/gcloud.sh
source "$(dirname "${BASH_SOURCE[0]}")/gcloud.sh"

: "${PROJECT:?Google Cloud project}" "${ZONE:?zone, such as us-west4-a}" "${TPU_NAME:?name of the TPU}"
: "${BUCKET:?gs:// folder for logs and compiled programs}"
[[ "${1:-}" == pav && $# -gt 1 ]] || refuse "give a pav command, such as: pav run --config=C --workdir=gs://..."
read_tpu_type
read_tpu_kind

secrets=pav_secrets
if [[ -n "${SECRETS:-}" ]]; then
  for name in $SECRETS; do
    [[ -n "${!name:-}" ]] || refuse "SECRETS names $name, which is not set"
  done
  if [[ "${DRY_RUN:-0}" != 1 ]]; then
    secrets=$(mktemp "$scratch/XXXXXX")  # readable by its owner only; scp -p keeps it so
    for name in $SECRETS; do printf 'export %s=%q\n' "$name" "${!name}"; done >"$secrets"
  fi
  to_every_host "$secrets" pav_secrets --scp-flag=-p
fi
printf -v settings '%q ' TPU_NAME="$TPU_NAME" TPU_TYPE="$TPU_TYPE" BUCKET="${BUCKET%/}"
printf -v arguments ' %q' "${@:2}"
on_every_host "${settings}bash pav/launch/on_host.sh start$arguments"
