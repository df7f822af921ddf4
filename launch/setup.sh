#!/usr/bin/env bash
# Copies the last commit to every host and installs it there (Python 3.12, pav, JAX for TPU) in ~/pav/.venv.
#
#   PROJECT=my-project ZONE=us-west4-a TPU_NAME=pav launch/setup.sh
#
# Uncommitted changes are not copied. Run it again after a new commit to replace the old one.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=launch/tpu_settings.sh
source "$here/tpu_settings.sh"
# shellcheck source=launch/gcloud.sh
source "$here/gcloud.sh"

: "${PROJECT:?Google Cloud project}" "${ZONE:?zone, such as us-west4-a}" "${TPU_NAME:?name of the TPU}"
read_tpu_kind

archive="${TMPDIR:-/tmp}/pav-$TPU_NAME.tar.gz"
run_or_print git -C "${here%/*}" archive --format=tar.gz --output="$archive" HEAD
to_every_host "$archive" pav.tar.gz
on_every_host 'mkdir -p pav && tar -xzf pav.tar.gz -C pav && bash pav/launch/on_host.sh install'
