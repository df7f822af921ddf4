#!/usr/bin/env bash
# Stands in for gcloud: its Google Cloud is the folder $CLOUD, and it fails when told to. It holds one TPU, pav: a
# queued resource of two slices (nodes) of one host each, or a tpu-vm of two hosts (called nodes here too):
#
#   states                  states of the TPU that it will go through, one a line; the last one stays
#   nodes/NAME/state        READY or PREEMPTED
#   nodes/NAME/home/        home directory of the host, where the commands sent to it run through $CLOUD/shell
#   faults                  lines "CALL FAULT": the next call of that kind goes wrong in that way
#   effects                 what was done, one a line
# shellcheck disable=SC2329  # the functions are called by the name of the verb
set -euo pipefail
cd "$CLOUD"
PLACE=projects/lab/locations/us-west4-a
kind=$3
verb=$4
words=("${@:5}")
case "$kind" in
  tpu-vm) collection=nodes up=READY ;;
  *) collection=queuedResources up=ACTIVE ;;
esac
TPU="$PLACE/$collection/pav"

error() { echo "ERROR: (gcloud.compute.tpus) $*" >&2; exit 1; }
absent() { error "NOT_FOUND: Resource '$1' was not found. This command is authenticated as someone"; }
effect() { echo "$*" >>effects; }
nodes() { ls nodes; }
flag() {  # NAME: the value of --NAME=VALUE
  local word
  for word in "${words[@]}"; do [[ "$word" != "--$1="* ]] || echo "${word#*=}"; done
}

create() {
  [[ ! -f states ]] || error "ALREADY_EXISTS: Resource '$TPU' already exists"
  printf '%s\n' ACCEPTED WAITING_FOR_RESOURCES "$up" >states
  for node in pav-0 pav-1; do
    mkdir -p "nodes/$node/home"
    echo READY >"nodes/$node/state"
    [[ ! -x made ]] || ./made "$node"
  done
  effect create
}
delete() {
  [[ -f states ]] || absent "$TPU"
  if grep -qx PREEMPTED nodes/*/state; then effect delete; else effect delete a healthy TPU; fi
  for node in $(nodes); do [[ ! -x lost ]] || ./lost "$node"; done
  rm -r states nodes
}
describe() {
  [[ -f states ]] || absent "$TPU"
  if [[ "$kind" == queued-resources ]]; then echo pav "$(head -n 1 states)" pav-0 pav-1
  elif grep -qx PREEMPTED nodes/*/state; then echo pav PREEMPTED
  else echo pav "$(head -n 1 states)"
  fi
  (($(wc -l <states) == 1)) || sed -i 1d states
}
list() {
  echo pav-7 PREEMPTED  # the filter lets this other TPU through
  [[ ! -f states ]] || for node in $(nodes); do echo "$node $(<"nodes/$node/state")"; done
}
reached() {  # the nodes that ssh and scp reach
  [[ -f states ]] || absent "$TPU"
  local node wanted=(pav-0)
  [[ "$(flag worker)" != all ]] || wanted=(pav-0 pav-1)
  for node in "${wanted[@]}"; do
    if [[ "$(<"nodes/$node/state")" == READY && ! ("$fault" == skip && "$node" == pav-1) ]]; then
      echo "$node"
    elif [[ "$(flag node)" == all ]]; then
      echo "WARNING: Could not prepare all ${#wanted[@]} nodes, attempting to ssh into the rest." >&2
    else
      error "TPU $node has state $(<"nodes/$node/state")"
    fi
  done
}
scp() {
  local node wanted
  wanted=$(reached)
  for node in $wanted; do cp -p "${words[0]}" "nodes/$node/home/${words[1]#*:}"; done
}
ssh() {
  local node wanted code=0 worst=0
  wanted=$(reached)
  for node in $wanted; do
    "$CLOUD/shell" "$node" "$(flag command)" || code=$?
    ((code == 0)) || worst=$code
  done
  return "$worst"
}

call=$verb
[[ "$verb ${words[1]:-}" != "scp pav:pav_secrets" ]] || call=secrets
if [[ "$verb" == ssh ]]; then
  [[ "$(flag command)" =~ on_host.sh\ ([a-z]+) ]]
  call=${BASH_REMATCH[1]}
fi
fault=none
if line=$(grep -m 1 -n "^$call " faults); then
  fault=${line##* }
  sed -i "${line%%:*}d" faults
fi
case "$fault" in  # these do nothing
  refuse) error "UNAVAILABLE: the service is currently unavailable" ;;
  elsewhere) absent "projects/lab/locations/us-west4-a" ;;
  no_project) absent "projects/lab" ;;
  json) printf '{\n  "name": "pav",\n  "state": {\n    "state": "SUSPEND'; exit ;;
  hang)
    echo $$ >hanging
    sleep 60 ;;
esac
code=0
# not "tmp*", the names of the scripts' own files: this process may be killed before the trap is set
answer=$(mktemp "$CLOUD/gcloud.XXXXXX")
errors=$(mktemp "$CLOUD/gcloud.XXXXXX")
trap 'rm -f "$answer" "$errors"' EXIT
("$verb") >"$answer" 2>"$errors" || code=$?
case "$fault" in  # these lose or spoil the answer
  lost) error "the connection was reset" ;;
  late) sleep 60 ;;
  half) head -c $(($(wc -c <"$answer") / 2)) "$answer"; exit ;;
  unended) printf '%s' "$(<"$answer")"; exit ;;
  noise)
    printf '%s\n' "WARNING: Python 3.9 will be deprecated" "SUSPENDED" "pav SUSPENDED 1" "1 1" >&2
    printf '%s\n' "WARNING: Python 3.9 will be deprecated by version 1" "Updates of 1 component" "" ;;
esac
cat "$answer"
cat "$errors" >&2
exit "$code"
