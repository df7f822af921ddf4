"""The launch scripts against stand-ins for gcloud, xpk, git and tar that note their arguments."""

import os
import shlex
import shutil
import stat
import subprocess
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh")) + sorted(LAUNCH.glob("gke/*.sh"))

# Notes its arguments; answers `describe`, `list` and the job's status from files of one answer a
# line, the last of which stays; where HOST names a home directory, runs there what is sent to the
# hosts.
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
    state=$(next states)
    case "$state" in
      NOT_FOUND)
        echo "ERROR: (gcloud.compute.tpus) NOT_FOUND: Resource 'x' was not found" >&2; exit 1 ;;
      DENIED) echo "ERROR: (gcloud.compute.tpus) PERMISSION_DENIED: no" >&2; exit 1 ;;
      *) echo "$state" ;;
    esac ;;
  *" tpu-vm list "*) next slices ;;
  *" create "*) exit "$(next create)" ;;
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


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


def on_every_host(command: str, kind=QUEUED, everywhere=EVERYWHERE) -> list[str]:
    return [*kind, "ssh", "pav", *everywhere, f"--command={command}", *PLACE]


INSTALL = "mkdir -p pav && tar -xzf pav.tar.gz -C pav && bash pav/launch/on_host.sh install"
STOP = "[ ! -d pav ] || bash pav/launch/on_host.sh stop"
START = (
    "TPU_NAME=pav TPU_TYPE=v5litepod-16 BUCKET=gs://b/pav bash pav/launch/on_host.sh start run "
    "--config=configs/mini.py --workdir=gs://b/runs/mini"
)
DELETE = [*QUEUED, "delete", "pav", "--quiet", "--force", *PLACE]


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


# ------------------------------------------------------------------------------------ command lines


def test_create_asks_for_a_queued_resource_of_one_slice(desk):
    desk.run("create.sh", REQUIRED["create.sh"][0])
    assert desk.calls() == [create("--node-id=pav", "--spot")]


def test_create_asks_for_several_slices_and_passes_further_flags_on(desk):
    desk.run(
        "create.sh",
        REQUIRED["create.sh"][0]
        | {
            "SLICES": "4",
            "CAPACITY": "reserved",
            "CREATE_FLAGS": "--network=mtu9k --internal-ips",
        },
    )
    assert desk.calls() == [
        create(
            "--node-count=4", "--node-prefix=pav", "--reserved", "--network=mtu9k", "--internal-ips"
        )
    ]


@pytest.mark.parametrize(
    "tpu_type, version",
    [
        ("v4-8", "tpu-ubuntu2204-base"),
        ("v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v5p-8", "v2-alpha-tpuv5"),
        ("v6e-8", "v2-alpha-tpuv6e"),
    ],
)
def test_create_asks_for_a_tpu_vm_with_the_version_of_its_generation(desk, tpu_type, version):
    desk.run(
        "create.sh", TPU | {"TPU_KIND": "tpu-vm", "TPU_TYPE": tpu_type, "CAPACITY": "on-demand"}
    )
    assert desk.calls() == [
        [*VM, "create", "pav", f"--accelerator-type={tpu_type}", f"--version={version}", *PLACE]
    ]


def test_setup_copies_the_last_commit_to_every_host_and_installs_it(desk):
    desk.run("setup.sh", TPU)
    archive = str(desk.folder / "pav-pav.tar.gz")
    assert desk.calls() == [
        [
            "git",
            "-C",
            str(LAUNCH.parent),
            "archive",
            "--format=tar.gz",
            f"--output={archive}",
            "HEAD",
        ],
        [*QUEUED, "scp", archive, "pav:pav.tar.gz", *EVERYWHERE, *PLACE],
        on_every_host(INSTALL),
    ]


def test_run_starts_the_command_on_every_host(desk):
    desk.run("run.sh", JOB, PAV)
    desk.run("run.sh", JOB | {"TPU_KIND": "tpu-vm", "BUCKET": "gs://b/pav/"}, PAV)
    assert desk.calls() == [on_every_host(START), on_every_host(START, VM, ["--worker=all"])]


def test_status_asks_for_the_tpu_its_slices_and_the_job(desk):
    desk.answers(states="ACTIVE", slices="READY READY", jobs="running")
    assert desk.run("status.sh", TPU).stdout == "ACTIVE running\n"
    job = "if [ -d pav ]; then bash pav/launch/on_host.sh status; else echo gone; fi"
    assert desk.calls() == [
        [*QUEUED, "describe", "pav", "--format=value(state.state)", "--verbosity=error", *PLACE],
        [
            *VM,
            "list",
            "--filter=name~(^|/)pav(-[0-9]+)?$",
            "--format=value(state)",
            *PLACE,
            "--verbosity=error",
        ],
        [*QUEUED, "ssh", "pav", "--worker=0", "--node=0", f"--command={job}", *PLACE],
    ]
    desk.answers(states="READY", jobs="143")
    assert desk.run("status.sh", TPU | {"TPU_KIND": "tpu-vm"}).stdout == "READY 143\n"
    assert desk.calls() == [
        [*VM, "describe", "pav", "--format=value(state)", "--verbosity=error", *PLACE],
        [*VM, "ssh", "pav", "--worker=0", f"--command={job}", *PLACE],
    ]


@pytest.mark.parametrize(
    "states, slices, jobs, said",
    [
        ("SUSPENDED", "", "", "SUSPENDED"),
        ("WAITING_FOR_RESOURCES", "", "", "WAITING_FOR_RESOURCES"),
        ("NOT_FOUND", "", "", "NOT_FOUND"),
        ("DENIED", "", "", "UNKNOWN"),
        ("ACTIVE", "READY", "", "ACTIVE silent"),
        ("ACTIVE", "PREEMPTED", "running", "PREEMPTED"),
    ],
)
def test_status_says_how_the_tpu_is(desk, states, slices, jobs, said):
    desk.answers(states=states, slices=slices, jobs=jobs)
    done = desk.run("status.sh", TPU)
    assert done.stdout == f"{said}\n"
    assert ("PERMISSION_DENIED" in done.stderr) == (states == "DENIED")


def test_stop_ends_the_job_and_then_deletes_the_tpu(desk):
    desk.run("stop.sh", TPU)
    assert desk.calls() == [on_every_host(STOP), DELETE]
    desk.run("stop.sh", TPU | {"TPU_KIND": "tpu-vm"})
    assert desk.calls() == [
        on_every_host(STOP, VM, ["--worker=all"]),
        [*VM, "delete", "pav", "--quiet", *PLACE],
    ]
    desk.run("stop.sh", TPU | {"KEEP_TPU": "1"})
    assert desk.calls() == [on_every_host(STOP)]


def test_gke_create_names_its_capacity(desk):
    settings = REQUIRED["gke/create.sh"][0]
    for capacity, flag in (
        ("spot", "--spot"),
        ("on-demand", "--on-demand"),
        ("reserved", "--reservation=ours"),
    ):
        desk.run(
            "gke/create.sh", settings | {"CAPACITY": capacity, "RESERVATION": "ours", "SLICES": "2"}
        )
        assert desk.calls() == [
            [
                "xpk",
                "cluster",
                "create",
                "--cluster=pods",
                "--tpu-type=v5litepod-16",
                "--num-slices=2",
                flag,
                "--project=lab",
                "--zone=us-west4-a",
            ]
        ]


def test_gke_run_submits_the_last_commit_and_leaves_secrets_to_xpk(desk):
    show = 'for word; do [[ $word != --env-file=* ]] || cat "${word#*=}"; done\n'
    desk.program("xpk", STAND_IN.replace("next() {", show + "next() {"))
    secrets = {"SECRETS": "OPENAI_API_KEY", "OPENAI_API_KEY": "s3cret"}
    done = desk.run("gke/run.sh", REQUIRED["gke/run.sh"][0] | secrets, [*PAV, "--config.name=a b"])
    archive, unpack, submit = calls = desk.calls()
    assert "s3cret" not in str(calls) + done.stdout + done.stderr
    scratch = unpack[2].removesuffix("/source.tar")
    assert archive == [
        "git",
        "-C",
        str(LAUNCH.parent),
        "archive",
        "--format=tar",
        f"--output={scratch}/source.tar",
        "HEAD",
    ]
    assert unpack == ["tar", "-xf", f"{scratch}/source.tar", "-C", f"{scratch}/source"]
    assert submit == [
        "xpk",
        "workload",
        "create",
        "--cluster=pods",
        "--workload=mini",
        "--tpu-type=v5litepod-16",
        "--num-slices=1",
        "--base-docker-image=python:3.12",
        f"--script-dir={scratch}/source",
        f"--env-file={scratch}/env",
        "--max-restarts=50",
        "--restart-on-exit-codes=1",
        "--termination-grace-period-seconds=300",
        "--project=lab",
        "--zone=us-west4-a",
        f"--command=pip install -q -e '.[tpu]' && exec {shlex.join(PAV)} --config.name=a\\ b",
    ]
    assert done.stdout.split("\n") == [
        "JAX_COMPILATION_CACHE_DIR=gs://b/pav/jax_cache",
        f"LIBTPU_INIT_ARGS={LIBTPU['v5litepod-16']}",
        "OPENAI_API_KEY",
        "",
    ]
    assert not Path(scratch).exists()


def test_gke_stop_ends_the_job_and_on_request_the_cluster(desk):
    settings = REQUIRED["gke/stop.sh"][0]
    place = ["--project=lab", "--zone=us-west4-a"]
    end = ["xpk", "workload", "delete", "--workload=mini", "--cluster=pods", "--force", *place]
    desk.run("gke/stop.sh", settings)
    assert desk.calls() == [end]
    desk.run("gke/stop.sh", settings | {"DELETE_CLUSTER": "1"})
    assert desk.calls() == [end, ["xpk", "cluster", "delete", "--cluster=pods", "--force", *place]]


# ----------------------------------------------------------------------------- settings and DRY_RUN


def test_every_script_a_user_runs_is_in_the_table_and_shows_an_example():
    named = {str(path.relative_to(LAUNCH)) for path in SCRIPTS}
    assert named - {"tpu_settings.sh", "on_host.sh"} == set(REQUIRED)
    for path in SCRIPTS:
        text = path.read_text()
        if path.name == "tpu_settings.sh":
            continue
        assert text.startswith("#!/usr/bin/env bash\n# ") and "set -euo pipefail" in text, path
        assert f"launch/{path.relative_to(LAUNCH)}" in text.partition("\nset -euo")[0], path
        assert path.stat().st_mode & stat.S_IXUSR, path


@pytest.mark.parametrize("script", REQUIRED)
def test_a_missing_setting_is_one_line_and_nothing_is_called(desk, script):
    settings, arguments = REQUIRED[script]
    for name in settings:
        done = desk.run(
            script,
            {key: value for key, value in settings.items() if key != name},
            arguments,
            check=False,
        )
        assert (
            done.returncode != 0
            and len(done.stderr.splitlines()) == 1
            and f"{name}: " in done.stderr
        ), done.stderr
    assert desk.calls() == []


@pytest.mark.parametrize(
    "script, changes, arguments, words",
    [
        ("create.sh", {"TPU_TYPE": "v3-8"}, [], "TPU_TYPE=v3-8"),
        ("create.sh", {"TPU_KIND": "pod"}, [], "TPU_KIND=pod"),
        ("create.sh", {"CAPACITY": "cheap"}, [], "CAPACITY=cheap"),
        ("create.sh", {"SLICES": "two"}, [], "SLICES=two"),
        ("create.sh", {"TPU_KIND": "tpu-vm", "SLICES": "2"}, [], "TPU_KIND=queued-resources"),
        ("run.sh", {}, [], "give a pav command"),
        ("run.sh", {}, ["python", "x.py"], "give a pav command"),
        ("run.sh", {"SECRETS": "HF_TOKEN"}, PAV, "HF_TOKEN"),
        ("watch.sh", {}, ["pav"], "give a pav command"),
        ("gke/create.sh", {"CAPACITY": "flex"}, [], "CAPACITY=flex"),
        ("gke/create.sh", {"CAPACITY": "reserved"}, [], "RESERVATION"),
        ("gke/run.sh", {}, ["run"], "give a pav command"),
        ("gke/run.sh", {"SECRETS": "HF_TOKEN"}, PAV, "HF_TOKEN"),
    ],
)
def test_a_wrong_setting_is_one_line_and_nothing_is_called(desk, script, changes, arguments, words):
    done = desk.run(script, REQUIRED[script][0] | changes, arguments, check=False)
    assert done.returncode != 0 and len(done.stderr.splitlines()) == 1 and words in done.stderr, (
        done.stderr
    )
    assert desk.calls() == []


@pytest.mark.parametrize(
    "script", [name for name in REQUIRED if name not in ("watch.sh", "status.sh")]
)
@pytest.mark.parametrize("kind", ["queued-resources", "tpu-vm"])
def test_a_dry_run_prints_what_a_run_would_call_and_calls_nothing(desk, script, kind):
    settings, arguments = REQUIRED[script]
    settings = settings | {"TPU_KIND": kind}
    arguments = [*arguments, '--config.name=it\'s a "test"'] if arguments else []
    done = desk.run(script, settings | {"DRY_RUN": "1"}, arguments)
    assert desk.calls() == [] and sorted(path.name for path in desk.folder.iterdir()) == ["bin"]
    desk.run(script, settings, arguments)
    called = desk.calls()
    if script == "gke/run.sh":  # a run works in a folder of its own
        scratch = called[1][2].removesuffix("/source.tar")
        called = [
            [word.replace(scratch, str(desk.folder / "pav-mini")) for word in call]
            for call in called
        ]
    assert [shlex.split(line) for line in done.stdout.splitlines()] == called


def test_a_dry_run_of_watch_shows_what_a_preemption_leads_to(desk):
    settings, arguments = REQUIRED["watch.sh"]
    done = desk.run("watch.sh", settings | {"DRY_RUN": "1"}, arguments)
    assert desk.calls() == []
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    assert (
        verbs(lines) == ["delete", "create", "stop", "install", "start"]
        and lines[0][4] == "describe"
    )


def test_a_secret_is_in_no_command_line_and_no_output(desk):
    settings = JOB | {
        "SECRETS": "OPENAI_API_KEY HF_TOKEN",
        "OPENAI_API_KEY": "s3cret",
        "HF_TOKEN": "t0ken",
    }
    for dry in ("1", "0"):
        done = desk.run("run.sh", settings | {"DRY_RUN": dry}, PAV)
        assert not any(secret in done.stdout + done.stderr for secret in ("s3cret", "t0ken"))
    copy, start = desk.calls()
    assert copy[:5] == [*QUEUED, "scp"] and copy[6:] == [
        "pav:pav_secrets",
        *EVERYWHERE,
        "--scp-flag=-p",
        *PLACE,
    ]
    assert start == on_every_host(START)
    assert not Path(copy[5]).exists()


# ------------------------------------------------------------------------------- watching, resuming


def watch(desk, check=True, **changes):
    settings, arguments = REQUIRED["watch.sh"]
    done = desk.run("watch.sh", settings | changes, arguments, check)
    return verbs(desk.calls()), done


def test_watch_sees_a_job_through_from_no_tpu_to_its_end(desk):
    desk.answers(
        states="NOT_FOUND WAITING_FOR_RESOURCES PROVISIONING ACTIVE",
        slices="READY",
        jobs="gone running 0",
    )
    steps, done = watch(desk)
    assert steps == ["create", "stop", "install", "start"]
    assert "gs://b/pav/logs/pav/" in done.stderr


@pytest.mark.parametrize(
    "kind, up, down",
    [
        ("queued-resources", "ACTIVE", "SUSPENDED"),
        ("tpu-vm", "READY", "PREEMPTED"),
        ("tpu-vm", "READY", "TERMINATED"),
    ],
)
def test_watch_deletes_creates_and_resumes_after_a_preemption(desk, kind, up, down):
    desk.answers(states=f"{up} {down} {up}", jobs="running gone running 0")
    steps, _ = watch(desk, TPU_KIND=kind)
    assert steps == ["delete", "create", "stop", "install", "start"]


def test_watch_acts_when_one_slice_is_preempted_before_the_resource_says_so(desk):
    desk.answers(states="ACTIVE", slices="READY PREEMPTED READY", jobs="running gone 0")
    assert watch(desk)[0] == ["delete", "create", "stop", "install", "start"]


def test_watch_waits_while_the_tpu_is_being_suspended_or_cannot_be_asked(desk):
    desk.answers(states="SUSPENDING DENIED ACTIVE", jobs="running 0")
    steps, done = watch(desk)
    assert steps == [] and "PERMISSION_DENIED" in done.stderr


def test_watch_asks_again_when_there_is_no_room(desk):
    desk.answers(states="NOT_FOUND NOT_FOUND ACTIVE", create="1 0", jobs="running 0")
    steps, done = watch(desk)
    assert steps == ["create", "create"] and "not created yet" in done.stderr


def test_watch_restarts_a_job_that_failed_and_gives_up_in_the_end(desk):
    desk.answers(states="ACTIVE", jobs="running 1 running 137 0")
    assert watch(desk)[0] == ["stop", "start", "stop", "start"]
    desk.answers(states="ACTIVE", jobs="running 1")
    steps, done = watch(desk, check=False, MAX_FAILURES="2")
    assert steps == ["stop", "start"] * 2 and done.returncode == 1 and "giving up" in done.stderr


@pytest.mark.parametrize("before", ["0", "1"])
def test_watch_does_not_take_the_end_of_an_earlier_job_for_that_of_its_own(desk, before):
    desk.answers(states="ACTIVE", jobs=f"{before} 0")
    assert watch(desk)[0] == ["stop", "install", "start"]


def test_watch_does_not_repeat_bad_input_nor_undo_what_a_person_did(desk):
    desk.answers(states="ACTIVE", jobs="running 2")
    steps, done = watch(desk, check=False)
    assert steps == [] and done.returncode == 2
    desk.answers(states="STOPPED")
    steps, done = watch(desk, check=False)
    assert steps == [] and done.returncode == 1 and "stopped by hand" in done.stderr


# ---------------------------------------------------------------------------------------- on a host


@pytest.fixture
def host(desk):
    """A host's home directory with the repository's scripts and a pav that notes how it was
    called."""
    home = desk.folder / "tmp-host"
    (home / "pav/.venv/bin").mkdir(parents=True)
    shutil.copytree(LAUNCH, home / "pav/launch")
    pav = home / "pav/.venv/bin/pav"
    pav.write_text(
        '#!/usr/bin/env bash\nprintf "%s\\n" "$@" "$JAX_COMPILATION_CACHE_DIR" "$LIBTPU_INIT_ARGS"'
        ' "${OPENAI_API_KEY:-}" "$PWD" >~/called\necho working; exit "$(cat ~/fate 2>/dev/null ||'
        ' echo 0)"\n'
    )
    pav.chmod(0o755)
    return home


# has no session, and runs the session's command at once
TMUX = '#!/usr/bin/env bash\n[[ $1 != has-session ]] || exit 1\nshift 4\n"$@"\n'


@pytest.mark.parametrize("tpu_type", LIBTPU)
def test_a_job_gets_its_words_its_settings_and_its_secrets_unchanged(desk, host, tpu_type):
    desk.program("tmux", TMUX)
    odd = ['--config.name=it\'s $HOME "quoted"; a*', "--note="]
    desk.run(
        "run.sh",
        JOB
        | {
            "TPU_TYPE": tpu_type,
            "HOST": str(host),
            "SECRETS": "OPENAI_API_KEY",
            "OPENAI_API_KEY": "a b'c",
        },
        [*PAV, *odd],
    )
    assert (host / "called").read_text().split("\n") == [
        *PAV[1:],
        *odd,
        "gs://b/pav/jax_cache",
        LIBTPU[tpu_type],
        "a b'c",
        str(host / "pav"),
        "",
    ]
    assert stat.S_IMODE((host / "pav_secrets").stat().st_mode) == 0o600
    (log,) = (host / "pav_state").glob("*.log")
    assert log.stem == os.uname().nodename and "working\n" in log.read_text()
    assert ["gcloud", "storage", "cp", str(log), "gs://b/pav/logs/pav/"] in desk.calls()
    assert (host / "pav_state/exit_status").read_text() == "0\n"


def on_host(desk, host, *arguments: str) -> subprocess.CompletedProcess:
    environment = {
        "PATH": f"{desk.bin}:{os.environ['PATH']}",
        "ANSWERS": str(desk.folder),
        "HOME": str(host),
        "TMUX_TMPDIR": str(desk.folder),
        "TERM": "xterm",
        "LC_ALL": "C.UTF-8",
        **JOB,
    }
    return subprocess.run(
        ["bash", "pav/launch/on_host.sh", *arguments],
        cwd=host,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_status_is_that_of_the_last_job(desk, host):
    desk.program("tmux", TMUX)
    assert on_host(desk, host, "status").stdout == "gone\n"
    (host / "fate").write_text("143")
    on_host(desk, host, "start", "run")
    assert on_host(desk, host, "status").stdout == "143\n"


def test_install_brings_its_own_python_and_what_reads_the_bucket(desk, host):
    uv = host / ".local/bin/uv"
    uv.parent.mkdir(parents=True)
    uv.write_text(STAND_IN)
    uv.chmod(0o755)
    desk.program("tmux", TMUX)
    assert on_host(desk, host, "install").returncode == 0
    assert desk.calls() == [
        ["uv", "venv", "--python", "3.12", "--allow-existing", ".venv"],
        ["uv", "pip", "install", "--python", ".venv/bin/python", "-e", ".[tpu]"],
    ]


@pytest.mark.skipif(not shutil.which("tmux"), reason="needs tmux")
def test_a_job_outlives_its_connection_and_stops_on_sigterm(desk, host):
    (host / "pav/.venv/bin/pav").write_text(
        "#!/usr/bin/env bash\n"
        "trap 'echo saved; exit 143' TERM\n"
        "echo ready; while true; do sleep 0.1; done\n"
    )
    assert on_host(desk, host, "start", "run", "--config.name=a b").returncode == 0
    try:
        (log,) = _wait_for(
            lambda: [
                path for path in (host / "pav_state").glob("*.log") if "ready" in path.read_text()
            ]
        )
        assert on_host(desk, host, "status").stdout == "running\n"
        again = on_host(desk, host, "start", "run")
        assert again.returncode == 1 and "running already" in again.stderr
    finally:
        assert on_host(desk, host, "stop").returncode == 0
    assert on_host(desk, host, "status").stdout == "143\n"
    assert "pav run --config.name=a b\n" in log.read_text() and log.read_text().count("saved") == 1
    assert on_host(desk, host, "stop").returncode == 0  # nothing to stop is no mistake


def _wait_for(condition, seconds: float = 20):
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)
    return result


# -------------------------------------------------------------------------------------------- style


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="needs shellcheck")
def test_shellcheck_finds_nothing():
    done = subprocess.run(
        ["shellcheck", "-x", *SCRIPTS], cwd=LAUNCH.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_no_line_is_longer_than_120_characters():
    long = [
        f"{path.name}:{number}"
        for path in SCRIPTS
        for number, line in enumerate(path.read_text().split("\n"), 1)
        if len(line) > 120
    ]
    assert not long
