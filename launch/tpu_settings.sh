# shellcheck shell=bash disable=SC2034
# Sourced by the scripts in this folder, not executable: dry runs and the settings that depend on the TPU's type.

run_or_print() {  # runs its arguments; with DRY_RUN=1 prints them
  if [[ "${DRY_RUN:-0}" == 1 ]]; then print_command "$@"; else "$@"; fi
}

print_command() {  # prints its arguments as a line for a shell
  local word line=""
  for word in "$@"; do
    [[ "$word" =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="${word@Q}"
    line+="${line:+ }$word"
  done
  echo "$line"
}

refuse() {  # prints an error message of one line; exit status 2
  echo "${0##*/}: $*" >&2
  exit 2
}

# Sets runtime_version (https://cloud.google.com/tpu/docs/runtimes) and libtpu_init_args from TPU_TYPE. The flags are
# those of MaxText's dense models (src/maxtext/configs/tpu); libtpu 0.0.42 knows all of them.
read_tpu_type() {
  local gather="--xla_enable_async_all_gather=true" fuse=--xla_tpu_enable_async_collective_fusion
  local overlap="$fuse=true ${fuse}_fuse_all_gather=true ${fuse}_multiple_steps=true"
  overlap+=" --xla_tpu_overlap_compute_collective_tc=true"
  local slices="--xla_tpu_enable_data_parallel_all_reduce_opt=true --xla_tpu_data_parallel_opt_different_sized_ops=true"
  local megacore="--xla_tpu_megacore_fusion_allow_ags=false --xla_enable_async_collective_permute=true"
  megacore+=" --xla_tpu_enable_ag_backward_pipelining=true"
  case "${TPU_TYPE:?accelerator type, such as v5litepod-16}" in
    v4-*) runtime_version=tpu-ubuntu2204-base libtpu_init_args="$gather" ;;
    v5litepod-*) runtime_version=v2-alpha-tpuv5-lite libtpu_init_args="$gather $overlap $slices" ;;
    v5p-*) runtime_version=v2-alpha-tpuv5 libtpu_init_args="$gather $overlap $slices $megacore" ;;
    v6e-*) runtime_version=v2-alpha-tpuv6e libtpu_init_args="$gather $overlap --xla_tpu_scoped_vmem_limit_kib=98304" ;;
    *) refuse "TPU_TYPE=$TPU_TYPE is none of v4-N, v5litepod-N, v5p-N, v6e-N" ;;
  esac
}
