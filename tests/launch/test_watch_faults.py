"""watch.sh while gcloud fails, hangs, or answers in part at each of its calls."""

import functools
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.scripts import LAUNCH, REQUIRED

pytestmark = pytest.mark.slow  # the scripts wait between attempts

# A host's side of the scripts. `jobs` holds the answers about the job, one a line: running, an exit
# status, or preempt, which takes the second slice away.
SHELL = r"""#!/usr/bin/env bash
set -euo pipefail
cd "$CLOUD/nodes/$1/home"
effect() { echo "$*" >>"$CLOUD/effects"; }
job=$(cat job 2>/dev/null || echo gone)
if [[ -f "$CLOUD/broken" && "$2" == *" install" ]]; then
  echo "on_host.sh: install failed on $1" >&2
  exit 1
fi
case "$2" in
  *"on_host.sh install") [[ -f pav.tar.gz ]] && touch pav && effect install ;;
  *"on_host.sh start "*)
    [[ -f pav && "$(<pav_secrets)" == "export API_KEY=s3cret" ]]
    [[ "$job" == running ]] || { echo running >job; effect start; } ;;
  *"on_host.sh stop") [[ "$job" != running ]] || { echo 143 >job; effect stop; } ;;
  *"on_host.sh status"*)
    if [[ "$job" == running ]]; then
      job=$(head -n 1 "$CLOUD/jobs")
      sed -i 1d "$CLOUD/jobs"
      case "$job" in
        preempt) effect preempt; echo PREEMPTED >"$CLOUD/nodes/pav-1/state"; job=running ;;
        running) ;;
        *)
          effect "exit $job"
          for home in "$CLOUD"/nodes/*/home; do echo "$job" >"$home/job"; done ;;
      esac
    fi
    echo "$job" ;;
esac
"""
# every call of gcloud, by its verb or by what it does on the hosts
CALLS = (
    "describe",
    "list",
    "status",
    "create",
    "delete",
    "scp",
    "install",
    "secrets",
    "start",
    "stop",
)
FAULTS = {
    "refuse": "not done, an error",
    "elsewhere": "not done, the zone was not found",
    "no_project": "not done, the project was not found",
    "json": "not done, half a JSON and success",
    "lost": "done, but an error",
    "half": "done, half the answer and success",
    "unended": "done, the answer without its last newline",
    "noise": "done, with warnings on both outputs",
    "skip": "done on the first slice only, with a warning",
}
HANGS = ("hang", "late")  # before it is done, and after
RUN = ["create", "install", "start"]
EFFECTS = [*RUN, "preempt", "delete", *RUN, "exit 1", "start", "exit 0"]


class Cloud:
    """The folder of the stand-in for gcloud, and a PATH that begins with it."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "bin").mkdir()
        self._program("bin/gcloud", Path(__file__).with_name("cloud_gcloud.sh").read_text())
        self._program("bin/git", '#!/usr/bin/env bash\n: >"${5#*=}"\n')
        self._program("shell", SHELL)
        (folder / "effects").touch()
        self.jobs("preempt 1 running 0")
        self.faults([])

    def _program(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def jobs(self, answers: str) -> None:
        (self.folder / "jobs").write_text(answers.replace(" ", "\n") + "\n")

    def faults(self, faults: list[tuple[str, str]]) -> None:
        (self.folder / "faults").write_text("".join(f"{call} {kind}\n" for call, kind in faults))

    def effects(self) -> list[str]:
        """What was done, on however many hosts and however often in a row."""
        lines = (self.folder / "effects").read_text().splitlines()
        return [line for n, line in enumerate(lines) if n == 0 or lines[n - 1] != line]

    def start(self, script: str, **settings: str) -> subprocess.Popen:
        required, arguments = REQUIRED[script]
        environment = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "CLOUD": str(self.folder),
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            "SLICES": "2",
            "POLL_SECONDS": "0",
            "RETRY_SECONDS": "0",
            "MAX_FAILURES": "1",  # the one of the job itself
            "SECRETS": "API_KEY",
            "API_KEY": "s3cret",
        }
        return subprocess.Popen(
            [LAUNCH / script, *arguments],
            env=environment | required | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, script: str, **settings: str) -> subprocess.CompletedProcess:
        process = self.start(script, **settings)
        stdout, stderr = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


every_fault = pytest.mark.parametrize("fault", FAULTS)


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


def assert_finished(cloud, done):
    assert done.returncode == 0, done.stderr
    assert cloud.effects() == EFFECTS, done.stderr
    assert [path.name for path in cloud.folder.glob("tmp*")] == []


def watch_all(
    folder: Path, faults: dict[str, list[tuple[str, str]]], **settings: str
) -> Iterator[tuple[Cloud, subprocess.CompletedProcess]]:
    """Run watch.sh once for each list of faults, all at once, because it mostly waits."""
    runs = []
    for name, of_run in faults.items():
        (folder / name).mkdir()
        cloud = Cloud(folder / name)
        cloud.faults(of_run)
        runs.append((cloud, cloud.start("watch.sh", **settings)))
    for cloud, process in runs:
        stdout, stderr = process.communicate(timeout=300)
        yield cloud, subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def assert_finished_without_faults_left(cloud, done):
    assert_finished(cloud, done)
    assert (cloud.folder / "faults").read_text() == "", cloud.folder


def test_watch_fault_at_each_call(tmp_path):
    faults = {fault: [(call, fault) for call in CALLS] for fault in FAULTS}
    for cloud, done in watch_all(tmp_path, faults):
        assert_finished_without_faults_left(cloud, done)


def test_watch_tpu_vm_fault_at_each_call(tmp_path):
    faults = {
        fault: [(call, fault) for call in CALLS if call != "list"]
        for fault in FAULTS
        if fault != "skip"  # of slices only
    }
    for cloud, done in watch_all(tmp_path, faults, TPU_KIND="tpu-vm", SLICES="1"):
        assert_finished_without_faults_left(cloud, done)


def test_watch_long_outages(tmp_path):
    """Every fault four times in a row, which is more often than a script tries by itself."""
    faults = {call: [(call, fault) for fault in FAULTS for _ in range(4)] for call in CALLS}
    for cloud, done in watch_all(tmp_path, faults):
        assert_finished(cloud, done)


def test_watch_hanging_calls(tmp_path):
    faults = {call: [(call, fault) for fault in HANGS] for call in CALLS}
    for cloud, done in watch_all(tmp_path, faults, QUERY_SECONDS="5", ACTION_SECONDS="5"):
        assert_finished_without_faults_left(cloud, done)


def test_watch_failing_host(cloud):
    """What fails on a host, not on the way there, is counted."""
    (cloud.folder / "broken").touch()
    done = cloud.run("watch.sh", MAX_FAILURES="2")
    assert done.returncode == 1 and "giving up after 3 failures" in done.stderr
    assert cloud.effects() == ["create"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watch_interrupted(cloud, number):
    """Ctrl-C ends a call in progress too, at once."""
    cloud.faults([("describe", "hang")])
    process = cloud.start("watch.sh")
    waiting = cloud.folder / "hanging"
    while not waiting.exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, number)
    assert process.wait(120) == -number
    with pytest.raises(ProcessLookupError):
        os.kill(int(waiting.read_text()), 0)


@every_fault
def test_status_faults(cloud, fault):
    """Only a complete answer counts; otherwise the reason is on standard error."""
    cloud.run("create.sh")
    (cloud.folder / "states").write_text("ACTIVE\n")
    for call, answer in (("describe", "UNKNOWN"), ("list", "UNKNOWN"), ("status", "ACTIVE silent")):
        cloud.faults([(call, fault)] * 3)
        done = cloud.run("status.sh")
        if fault in ("noise", "skip"):
            answer = "ACTIVE gone"
        assert done.stdout == f"{answer}\n", call
        assert bool(done.stderr) == (answer != "ACTIVE gone")


@every_fault
def test_stop_faults(cloud, fault):
    cloud.run("create.sh")
    cloud.faults([(call, fault) for call in ("stop", "delete")])
    assert cloud.run("stop.sh").returncode == 0
    assert not (cloud.folder / "states").exists()


def test_stop_not_deleted(cloud):
    cloud.run("create.sh")
    cloud.faults([("delete", "refuse")] * 3)
    done = cloud.run("stop.sh")
    assert done.returncode == 1 and "may still cost money" in done.stderr.splitlines()[-1]
