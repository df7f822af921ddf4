"""A Google Cloud of local folders, on whose hosts the real scripts install and run `pav`.

`cloud_gcloud.sh` is its gcloud. A host is a folder with its own HOME, environment and tmux server;
what a TPU host would download comes from the environment that runs the tests.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "PROJECT": "lab",
    "ZONE": "us-west4-a",
    "TPU_NAME": "pav",
    "TPU_TYPE": "v5litepod-16",
    "CAPACITY": "spot",
    "SLICES": "2",
}

# called for each node of a new TPU; the first one is where JAX's processes meet
MADE = """#!{python}
import socket, sys
if sys.argv[1] == "pav-0":
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{{free.getsockname()[1]}}"
    open("{cloud}/coordinator", "w").write(address)
"""
# takes a node away: SIGKILL to all its processes
LOST = """#!/usr/bin/env bash
home={cloud}/nodes/$1/home
export TMUX_TMPDIR=$home
kill -KILL $(cat $home/pav_state/pid) $(tmux display-message -p '#{{pid}}') \
  $(tmux list-panes -a -F '#{{pane_pid}}')
true
"""
# runs a command in the home directory of a node's host
SHELL = """#!/usr/bin/env bash
cd {cloud}/nodes/$1/home
exec env -i HOME="$PWD" HOST_NAME="$1" PATH={cloud}/host_bin:/usr/local/bin:/usr/bin:/bin \
  TMUX_TMPDIR="$PWD" TERM=xterm LC_ALL=C.UTF-8 HF_HUB_OFFLINE=1 JAX_PLATFORMS=cpu \
  JAX_NUM_CPU_DEVICES=1 JAX_NUM_PROCESSES=2 JAX_PROCESS_ID="${{1##*-}}" \
  JAX_COORDINATOR_ADDRESS="$(<{cloud}/coordinator)" bash -c "$2"
"""
HOSTNAME = '#!/usr/bin/env bash\necho "$HOST_NAME"\n'
# `gcloud storage cp FILE FOLDER/`
STORAGE = """#!/usr/bin/env bash
[[ "$1 $2" == "storage cp" ]] && mkdir -p "$4" && cp "$3" "$4"
"""
# downloads uv's installer
CURL = """#!/usr/bin/env bash
[[ "$*" == *" https://astral.sh/uv/install.sh" ]] || exit 22
echo "mkdir -p ~/.local/bin && cp {cloud}/uv ~/.local/bin/uv"
"""
# makes a virtual environment, and "installs" the tree with what the tests' environment has
UV = """#!/usr/bin/env bash
set -euo pipefail
case "$*" in
  "venv --python 3.12 --allow-existing .venv") {python} -m venv --without-pip .venv ;;
  "pip install --python .venv/bin/python -e .[tpu]")
    printf '%s\\n' "$PWD" {packages} >.venv/lib/python{version}/site-packages/prepared.pth
    printf '%s\\n' "#!$PWD/.venv/bin/python" "from pav_jax.main import console" "console()" \
      >.venv/bin/pav
    chmod +x .venv/bin/pav ;;
  *) exit 2 ;;
esac
"""


class Rehearsal:
    """The folders, and the scripts that run on them.

    Args:
      folder: an empty folder.
      bucket: what BUCKET is set to: a folder that all hosts see.
    """

    def __init__(self, folder: Path, bucket: Path):
        self.cloud = folder / "cloud"
        self.launch = self._commit(folder / "checkout") / "launch"
        for name in ("cloud/bin", "cloud/host_bin", "desk"):
            (folder / name).mkdir(parents=True)
        self.environment = {
            "PATH": f"{self.cloud}/bin:{os.environ['PATH']}",
            "CLOUD": str(self.cloud),
            "HOME": str(folder / "desk"),
            "TMPDIR": str(folder / "desk"),
            "POLL_SECONDS": "1",
            "RETRY_SECONDS": "1",
            "BUCKET": str(bucket),
            **SETTINGS,
        }
        words = {
            "cloud": self.cloud,
            "python": sys.executable,
            "version": f"{sys.version_info[0]}.{sys.version_info[1]}",
            "packages": " ".join(path for path in sys.path if path.endswith("-packages")),
        }
        self._program("bin/gcloud", Path(__file__).with_name("cloud_gcloud.sh").read_text())
        self._program("host_bin/hostname", HOSTNAME)
        for name, text in (
            ("made", MADE),
            ("lost", LOST),
            ("shell", SHELL),
            ("host_bin/gcloud", STORAGE),
            ("host_bin/curl", CURL),
            ("uv", UV),
        ):
            self._program(name, text.format(**words))
        (self.cloud / "faults").touch()

    def _program(self, name: str, text: str) -> None:
        (self.cloud / name).write_text(text)
        (self.cloud / name).chmod(0o755)

    @staticmethod
    def _commit(checkout: Path) -> Path:
        """Commit the working tree in a repository of its own, for setup.sh to copy."""
        checkout.mkdir()
        listed = ["git", "-C", str(ROOT), "ls-files", "-z", "-c", "-o", "--exclude-standard"]
        names = subprocess.run(listed, check=True, capture_output=True, text=True).stdout
        for name in filter(None, names.split("\0")):
            target = checkout / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).exists():
                shutil.copy2(ROOT / name, target, follow_symlinks=False)
        for words in (
            ["init", "-q"],
            ["add", "-A"],
            ["-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-q", "-m", "tree"],
        ):
            subprocess.run(["git", "-C", str(checkout), *words], check=True)
        return checkout

    def start(self, script: str, *arguments: str, **settings: str) -> subprocess.Popen:
        return subprocess.Popen(
            [self.launch / script, *arguments],
            env=self.environment | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script: str, *arguments: str, **settings: str) -> str:
        """Run a script to its end; return its standard output."""
        process = self.start(script, *arguments, **settings)
        stdout, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, f"{script}: {stderr[-3000:]}"
        return stdout

    def preempt(self, node: str) -> None:
        """Take the node away as Google Cloud does: its host is gone at once."""
        (self.cloud / "nodes" / node / "state").write_text("PREEMPTED\n")
        subprocess.run([self.cloud / "lost", node], check=True)

    def logs(self) -> str:
        """The ends of the hosts' logs, to explain a failure."""
        paths = sorted(self.cloud.glob("nodes/*/home/pav_state/*.log"))
        return "\n".join(f"{path}: {path.read_text()[-2000:]}" for path in paths)

    def close(self) -> None:
        """End whatever still runs on the hosts."""
        for node in self.cloud.glob("nodes/*"):
            subprocess.run([self.cloud / "lost", node.name], capture_output=True)


def wait_for(condition, seconds: float, process: subprocess.Popen | None = None) -> None:
    """Wait until the condition holds, while the process (if any) runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.5)
