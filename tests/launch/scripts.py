"""Fake gcloud, xpk, git and tar for the tests of the launch scripts; they record arguments."""

import os
import subprocess
from pathlib import Path

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh")) + sorted(LAUNCH.glob("gke/*.sh"))

# Notes its arguments; answers `describe`, `list` and the job's status from files of one answer a
# line, the last of which stays; finds no TPU when first asked after a deletion; where HOST names a
# home directory, runs there what is sent to the hosts.
STAND_IN = r"""#!/usr/bin/env bash
printf '%s\x1f' "${0##*/}" "$@" >>"$ANSWERS/calls"
printf '\x1e' >>"$ANSWERS/calls"
next() {
  [[ -f "$ANSWERS/$1" ]] || { [[ $1 != create ]] || echo 0; return; }
  head -n 1 "$ANSWERS/$1"
  [[ $(wc -l <"$ANSWERS/$1") -le 1 ]] || sed -i 1d "$ANSWERS/$1"
}
case " $* " in
  *" describe "*)
    if [[ -f "$ANSWERS/deleted" ]]; then
      rm "$ANSWERS/deleted"
      state=NOT_FOUND
    else
      state=$(next states)
    fi
    case "$3" in tpu-vm) collection=nodes ;; *) collection=queuedResources ;; esac
    case "$state" in
      NOT_FOUND)
        name="projects/lab/locations/us-west4-a/$collection/pav"
        echo "ERROR: (gcloud.compute.tpus) NOT_FOUND: Resource '$name' was not found. This" >&2
        exit 1 ;;
      DENIED) echo "ERROR: (gcloud.compute.tpus) PERMISSION_DENIED: no" >&2; exit 1 ;;
      *) echo "pav $state pav" ;;
    esac ;;
  *" tpu-vm list "*) slice=$(next slices); echo "pav ${slice:-READY}" ;;
  *" create "*) exit "$(next create)" ;;
  *" delete "*) touch "$ANSWERS/deleted" ;;
  *" scp "*)
    [[ -z "${HOST:-}" || "$5" != */tmp* ]] || cp -p "$5" "$HOST/${6#*:}" ;;
  *"on_host.sh status"*) next jobs ;;
  *" ssh "*)
    if [[ -n "${HOST:-}" ]]; then
      for argument in "$@"; do
        [[ "$argument" != --command=* ]] \
          || (cd "$HOST" && HOME="$HOST" bash -c "${argument#--command=}")
      done
    fi ;;
esac
"""

TPU = {"PROJECT": "lab", "ZONE": "us-west4-a", "TPU_NAME": "pav"}
JOB = TPU | {"TPU_TYPE": "v5litepod-16", "BUCKET": "gs://b/pav"}
CLUSTER = {"PROJECT": "lab", "ZONE": "us-west4-a", "CLUSTER": "pods"}
PAV = ["pav", "run", "--config=configs/mini.py", "--workdir=gs://b/runs/mini"]
# script -> (the settings it cannot do without, its arguments)
REQUIRED = {
    "create.sh": (TPU | {"TPU_TYPE": "v5litepod-16", "CAPACITY": "spot"}, []),
    "setup.sh": (TPU, []),
    "run.sh": (JOB, PAV),
    "status.sh": (TPU, []),
    "watch.sh": (JOB | {"CAPACITY": "spot"}, PAV),
    "stop.sh": (TPU, []),
    "gke/create.sh": (CLUSTER | {"TPU_TYPE": "v5litepod-16", "CAPACITY": "spot"}, []),
    "gke/run.sh": (
        CLUSTER | {"WORKLOAD": "mini", "TPU_TYPE": "v5litepod-16", "BUCKET": "gs://b/pav"},
        PAV,
    ),
    "gke/stop.sh": (CLUSTER | {"WORKLOAD": "mini"}, []),
}
PLACE = ["--zone=us-west4-a", "--project=lab"]
QUEUED = ["gcloud", "compute", "tpus", "queued-resources"]
VM = ["gcloud", "compute", "tpus", "tpu-vm"]
EVERYWHERE = ["--worker=all", "--node=all"]
GATHER = "--xla_enable_async_all_gather=true"
FUSE = "--xla_tpu_enable_async_collective_fusion"
OVERLAP = (
    f"{FUSE}=true {FUSE}_fuse_all_gather=true {FUSE}_multiple_steps=true "
    "--xla_tpu_overlap_compute_collective_tc=true"
)
SLICES = (
    "--xla_tpu_enable_data_parallel_all_reduce_opt=true"
    " --xla_tpu_data_parallel_opt_different_sized_ops=true"
)
LIBTPU = {
    "v4-8": GATHER,
    "v5litepod-16": f"{GATHER} {OVERLAP} {SLICES}",
    "v5p-8": (
        f"{GATHER} {OVERLAP} {SLICES} --xla_tpu_megacore_fusion_allow_ags=false "
        "--xla_enable_async_collective_permute=true --xla_tpu_enable_ag_backward_pipelining=true"
    ),
    "v6e-8": f"{GATHER} {OVERLAP} --xla_tpu_scoped_vmem_limit_kib=98304",
}


class Desk:
    """A place to run the scripts from: stand-ins on PATH, answers they give, calls they noted."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name in ("gcloud", "xpk", "git", "tar"):
            self.program(name, STAND_IN)

    def program(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def answers(self, **lines: str) -> None:
        for name, text in lines.items():
            (self.folder / name).write_text("".join(f"{line}\n" for line in text.split()))

    def run(
        self, script: str, settings: dict, arguments=(), check: bool = True
    ) -> subprocess.CompletedProcess:
        environment = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "ANSWERS": str(self.folder),
            "LC_ALL": "C.UTF-8",
            "TMPDIR": str(self.folder),
            "HOME": str(self.folder),
            "POLL_SECONDS": "0",
            "RETRY_SECONDS": "0",
            "TERM": "xterm",
        }
        done = subprocess.run(
            [LAUNCH / script, *arguments],
            env=environment | settings,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def calls(self) -> list[list[str]]:
        """What was called since the last time this was asked."""
        notes = self.folder / "calls"
        text = notes.read_text() if notes.exists() else ""
        notes.unlink(missing_ok=True)
        return [call.split("\x1f")[:-1] for call in text.split("\x1e")[:-1]]


def on_every_host(command: str, kind=QUEUED, everywhere=EVERYWHERE) -> list[str]:
    return [*kind, "ssh", "pav", *everywhere, f"--command={command}", *PLACE]


INSTALL = "mkdir -p pav && tar -xzf pav.tar.gz -C pav && bash pav/launch/on_host.sh install"
STOP = "[ ! -d pav ] || bash pav/launch/on_host.sh stop"
START = (
    "TPU_NAME=pav TPU_TYPE=v5litepod-16 BUCKET=gs://b/pav bash pav/launch/on_host.sh start run "
    "--config=configs/mini.py --workdir=gs://b/runs/mini"
)
DELETE = [*QUEUED, "delete", "pav", "--quiet", "--force", *PLACE]


def check_deleted(kind=QUEUED) -> list[str]:
    return [*kind, "describe", "pav", "--verbosity=error", *PLACE]


def create(*flags: str) -> list[str]:
    return [
        *QUEUED,
        "create",
        "pav",
        "--accelerator-type=v5litepod-16",
        "--runtime-version=v2-alpha-tpuv5-lite",
        *flags,
        *PLACE,
    ]


def verbs(calls) -> list[str]:
    """The action of every call on the TPU, with what a command to the hosts does."""
    short = {INSTALL: "install", STOP: "stop", START: "start"}
    words = []
    for call in calls:
        command = next(
            (word.removeprefix("--command=") for word in call if word.startswith("--command=")), ""
        )
        if (
            call[0] == "gcloud"
            and call[4] not in ("describe", "list", "scp")
            and "status" not in command
        ):
            words.append(short.get(command, call[4]))
    return words
